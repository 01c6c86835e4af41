"""What the node agent calls: register, heartbeat, benchmarks."""

from __future__ import annotations

from django.db import InterfaceError, OperationalError
from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from nodes import benchmarks, heartbeats, joining
from nodes.models import Node
from nodes.node_api.authentication import IsNode, NodeAuthentication, unknown_node
from protocol import messages


class NodeView(APIView):
    """Base of all node endpoints: node token in, messages of `protocol.messages` in and out."""

    schema = None
    authentication_classes = [NodeAuthentication]
    permission_classes = [IsNode]

    def handle_exception(self, exc: Exception) -> Response:
        """A node that is removed while it is answered hears that, whatever else became of what it said."""
        node = self.request.auth
        database_is_away = isinstance(exc, OperationalError | InterfaceError)
        if isinstance(node, Node) and not database_is_away and not Node.objects.filter(pk=node.pk).exists():
            exc = unknown_node()
        return super().handle_exception(exc)


class RegisterView(NodeView):
    authentication_classes = []  # the join token in the body is the credential
    permission_classes = []

    def post(self, request: Request) -> HttpResponse:
        registered = joining.register(messages.decode(request.body, messages.Registration))
        return message(registered, status=201)


class HeartbeatView(NodeView):
    def post(self, request: Request) -> HttpResponse:
        return message(heartbeats.receive(calling_node(request), messages.decode(request.body, messages.Heartbeat)))


class BenchmarksView(NodeView):
    def post(self, request: Request) -> HttpResponse:
        benchmarks.store(calling_node(request), messages.decode(request.body, messages.Benchmarks))
        return HttpResponse(status=204)


def calling_node(request: Request) -> Node:
    assert isinstance(request.auth, Node)
    return request.auth


def message(content: messages.Message, status: int = 200) -> HttpResponse:
    return HttpResponse(messages.encode(content), content_type="application/json", status=status)
