"""Addresses of the Django side. /v2 is the gateway's (see `asgi`)."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from cyxwiz_site import health

urlpatterns = [
    path("", RedirectView.as_view(url="/admin/")),  # until there are pages for users
    path("admin/", admin.site.urls),
    path("api/schema/", SpectacularAPIView.as_view(permission_classes=[]), name="schema"),
    path("api/docs/", SpectacularSwaggerView.as_view(url_name="schema", permission_classes=[]), name="docs"),
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
