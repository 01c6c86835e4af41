"""What the node agent calls: register, heartbeat, benchmarks."""

from __future__ import annotations

from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.views import APIView

from nodes import benchmarks, heartbeats, joining
from nodes.models import Node
from nodes.node_api.authentication import IsNode, NodeAuthentication
from protocol import messages


class NodeView(APIView):
    """Base of all node endpoints: node token in, messages of `protocol.messages` in and out."""

    schema = None
    authentication_classes = [NodeAuthentication]
    permission_classes = [IsNode]


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
