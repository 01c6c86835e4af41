"""Files for nodes: each gets those that its current replicas and jobs are made of, and no others."""

from __future__ import annotations

from django.http import Http404, HttpResponseBase
from django.shortcuts import get_object_or_404
from rest_framework.request import Request

import deployments.services
import jobs.services
from models_registry.models import Blob
from models_registry.ranged import blob_response
from nodes.node_api.views import NodeView, calling_node


class BlobView(NodeView):
    def get(self, request: Request, sha256: str) -> HttpResponseBase:
        node = calling_node(request)
        if not deployments.services.node_needs_blob(node, sha256) and not jobs.services.node_needs_blob(node, sha256):
            raise Http404
        return blob_response(request._request, get_object_or_404(Blob, pk=sha256))
