"""The node API: what node machines call, with their own tokens."""

from django.urls import include, path

from cyxwiz_site.node_blobs import BlobView

urlpatterns = [
    path("", include("nodes.node_api.urls")),
    path("blobs/<str:sha256>", BlobView.as_view()),
    path("jobs/", include("jobs.node_api.urls")),
    path("terminals/", include("terminal.node_api.urls")),
]
