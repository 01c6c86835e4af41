"""The node API: what node machines call, with their own tokens."""

from django.urls import include, path

urlpatterns = [
    path("", include("nodes.node_api.urls")),
    path("jobs/", include("jobs.node_api.urls")),
]
