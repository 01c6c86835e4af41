"""The page that shows the API and tries it out."""

from typing import Any

from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularSwaggerSplitView
from rest_framework.request import Request
from rest_framework.response import Response

from cyxwiz_site import content_security


class Docs(SpectacularSwaggerSplitView):
    """Without a script in the page itself."""

    @extend_schema(exclude=True)
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        response = super().get(request, *args, **kwargs)
        response.headers[content_security.HEADER] = content_security.STYLED
        return response
