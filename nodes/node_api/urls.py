from django.urls import path

from nodes.node_api import views

urlpatterns = [
    path("register", views.RegisterView.as_view()),
    path("heartbeat", views.HeartbeatView.as_view()),
    path("benchmarks", views.BenchmarksView.as_view()),
]
