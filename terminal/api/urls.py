from django.urls import path

from terminal.api import ssh_views, views

urlpatterns = [
    path("sessions/", views.SessionsView.as_view(), name="terminal-sessions"),
    path("sessions/<uuid:id>/", views.SessionView.as_view(), name="terminal-session"),
    path("sessions/<uuid:id>/tickets", views.TicketsView.as_view(), name="terminal-tickets"),
    path("sessions/<uuid:id>/approve", views.ApproveView.as_view(), name="terminal-approve"),
    path("sessions/<uuid:id>/end", views.EndView.as_view(), name="terminal-end"),
    path("sessions/<uuid:id>/recording", views.RecordingView.as_view(), name="terminal-recording"),
    path("nodes/<str:name>/grants/", views.GrantsView.as_view(), name="terminal-grants"),
    path("nodes/<str:name>/grants/<str:username>/", views.GrantView.as_view(), name="terminal-grant"),
    path("ssh-gateway", views.SshGatewayView.as_view(), name="terminal-ssh-gateway"),
    path("nodes/<str:name>/policy", views.PolicyView.as_view(), name="terminal-policy"),
    path("ssh-nodes/", ssh_views.SshNodesView.as_view(), name="ssh-nodes"),
    path("ssh-nodes/offered-keys", ssh_views.OfferedKeysView.as_view(), name="ssh-offered-keys"),
    path("ssh-nodes/<str:name>/", ssh_views.SshNodeView.as_view(), name="ssh-node"),
]
