"""Addresses of the Django side. /v2 is the gateway's (see `asgi`)."""

from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView

from cyxwiz_site import api_docs, front, health

urlpatterns = [
    path("", front.door),
    path("login/", LoginView.as_view(template_name="login.html", redirect_authenticated_user=True), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("admin/", admin.site.urls),
    path("terminal/", include("terminal.urls")),
    path("api/schema/", SpectacularAPIView.as_view(permission_classes=[]), name="schema"),
    path("api/docs/", api_docs.Docs.as_view(url_name="schema", permission_classes=[]), name="docs"),
    path("api/v1/models/", include("models_registry.api.urls")),
    path("api/v1/deployments/", include("deployments.api.urls")),
    path("api/v1/jobs/", include("jobs.api.urls")),
    path("api/v1/nodes/", include("nodes.api.urls")),
    path("api/v1/ssh-keys/", include("accounts.api.urls")),
    path("api/v1/terminal/", include("terminal.api.urls")),
    path("api/node/v1/", include("cyxwiz_site.node_urls")),
    path("healthz", health.healthz),
    path("readyz", health.readyz),
]
handler404 = "cyxwiz_site.api.not_found"
handler500 = "cyxwiz_site.api.server_error"
