from django.urls import path

from jobs.api import datasets, views

urlpatterns = [
    path("", views.JobsView.as_view(), name="jobs"),
    path("datasets/", datasets.DatasetsView.as_view(), name="datasets"),
    path("datasets/<uuid:id>/", datasets.DatasetView.as_view(), name="dataset"),
    path("<uuid:id>/", views.JobView.as_view(), name="job"),
    path("<uuid:id>/cancel", views.CancelView.as_view(), name="job-cancel"),
    path("<uuid:id>/result", views.ResultView.as_view(), name="job-result"),
]
