from django.urls import path

from accounts.api import views

urlpatterns = [
    path("", views.SshKeysView.as_view(), name="ssh-keys"),
    path("<int:pk>/", views.SshKeyView.as_view(), name="ssh-key"),
]
