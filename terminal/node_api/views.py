"""What a node says about terminals: I take it, it has ended."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpResponse
from rest_framework.request import Request

from nodes.node_api.views import NodeView, calling_node, message
from protocol import messages
from terminal import reports


class AcceptView(NodeView):
    def post(self, request: Request, session_id: UUID) -> HttpResponse:
        return message(reports.accept(session_id=session_id, node=calling_node(request)))


class EndedView(NodeView):
    def post(self, request: Request, session_id: UUID) -> HttpResponse:
        said = messages.decode(request.body, messages.TerminalEnded)
        reports.ended(session_id=session_id, node=calling_node(request), said=said)
        return HttpResponse(status=204)
