from django.urls import path

from deployments.api import views

urlpatterns = [
    path("", views.DeploymentsView.as_view(), name="deployments"),
    path("<str:name>/", views.DeploymentView.as_view(), name="deployment"),
    path("<str:name>/start", views.StartView.as_view(), name="deployment-start"),
    path("<str:name>/stop", views.StopView.as_view(), name="deployment-stop"),
    path("<str:name>/restart", views.RestartView.as_view(), name="deployment-restart"),
    path("<str:name>/scale", views.ScaleView.as_view(), name="deployment-scale"),
    path("<str:name>/placement", views.PlacementView.as_view(), name="deployment-placement"),
    path("<str:name>/events", views.EventsView.as_view(), name="deployment-events"),
    path("<str:name>/metrics", views.MetricsView.as_view(), name="deployment-metrics"),
    path("<str:name>/logs", views.LogsView.as_view(), name="deployment-logs"),
]
