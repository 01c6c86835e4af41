from django.urls import path

from terminal.node_api import views

urlpatterns = [
    path("<uuid:session_id>/accept", views.AcceptView.as_view()),
    path("<uuid:session_id>/ended", views.EndedView.as_view()),
]
