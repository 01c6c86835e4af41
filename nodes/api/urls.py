from django.urls import path

from nodes.api import views

urlpatterns = [
    path("", views.NodesView.as_view(), name="nodes"),
    path("join-tokens/", views.JoinTokensView.as_view(), name="join-tokens"),
    path("<str:name>/", views.NodeView.as_view(), name="node"),
    path("<str:name>/drain", views.DrainView.as_view(), name="node-drain"),
    path("<str:name>/benchmark", views.BenchmarkView.as_view(), name="node-benchmark"),
    path("<str:name>/resume", views.ResumeView.as_view(), name="node-resume"),
]
