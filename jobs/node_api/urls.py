from django.urls import path

from jobs.node_api import views

urlpatterns = [
    path("<uuid:job_id>/accept", views.AcceptView.as_view()),
    path("<uuid:job_id>/result", views.ResultView.as_view()),
    path("<uuid:job_id>/failure", views.FailureView.as_view()),
]
