"""/api/v1/nodes/"""

from __future__ import annotations

from typing import Any

from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework import generics, mixins
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.models import User
from nodes import benchmarks, joining, services
from nodes.api.serializers import JoinTokenSerializer, NewJoinTokenSerializer, NodeSerializer, OneNodeSerializer
from nodes.models import JoinToken, Node, NodeQuerySet
from protocol.errors import Forbidden


class NodesView(generics.ListAPIView[Node]):
    """The nodes you may use: your own, and shared ones."""

    scope = "nodes"
    serializer_class = NodeSerializer
    queryset = Node.objects.none()
    filterset_fields = ["state", "draining", "shared", "name"]

    def get_queryset(self) -> NodeQuerySet:
        return _visible(self.request)


class NodeView(mixins.UpdateModelMixin, generics.RetrieveDestroyAPIView[Node]):
    scope = "nodes"
    serializer_class = OneNodeSerializer
    queryset = Node.objects.none()
    lookup_field = "name"

    def get_queryset(self) -> NodeQuerySet:
        return _visible(self.request)

    def patch(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Change the labels, or whether models that are programs may run there."""
        _managed(request, self.get_object())
        return self.partial_update(request, *args, **kwargs)

    def perform_destroy(self, node: Node) -> None:
        services.remove(_managed(self.request, node))


class DrainView(APIView):
    scope = "nodes"

    @extend_schema(request=None, responses=NodeSerializer)
    def post(self, request: Request, name: str) -> Response:
        """Give the node nothing new, and move what runs on it."""
        node = _managed(request, get_object_or_404(_visible(request), name=name))
        services.drain(node)
        return Response(NodeSerializer(node).data)


class ResumeView(APIView):
    scope = "nodes"

    @extend_schema(request=None, responses=NodeSerializer)
    def post(self, request: Request, name: str) -> Response:
        """Take a drained node back into service."""
        node = _managed(request, get_object_or_404(_visible(request), name=name))
        services.resume(node)
        return Response(NodeSerializer(node).data)


class BenchmarkView(APIView):
    scope = "nodes"

    @extend_schema(request=None, responses={202: NodeSerializer})
    def post(self, request: Request, name: str) -> Response:
        """Have the node measure its devices again. The figures appear with the devices, seconds later; until then
        `benchmark_asked_at` is set."""
        node = _managed(request, get_object_or_404(_visible(request), name=name))
        benchmarks.ask(node)
        return Response(NodeSerializer(node).data, status=202)


class JoinTokensView(generics.ListAPIView[JoinToken]):
    scope = "nodes"
    serializer_class = JoinTokenSerializer
    queryset = JoinToken.objects.none()

    def get_queryset(self) -> Any:
        return JoinToken.objects.visible_to(self.request.user)

    @extend_schema(request=JoinTokenSerializer, responses={201: NewJoinTokenSerializer})
    def post(self, request: Request) -> Response:
        """Make a token with which one machine may join, once, within fifteen minutes."""
        wanted = JoinTokenSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        assert isinstance(request.user, User)
        row, text = joining.make_token(user=request.user, **wanted.validated_data)
        url = request.build_absolute_uri("/").rstrip("/")
        secrets = {"token": text, "command": f"cyxwiz-node join {url} --token {text}"}
        return Response(JoinTokenSerializer(row).data | secrets, status=201)


def _visible(request: Request) -> NodeQuerySet:
    nodes = Node.objects.visible_to(request.user)
    return nodes.select_related("owner").prefetch_related("devices__allocations", "devices__benchmarks")


def _managed(request: Request, node: Node) -> Node:
    """A shared node is seen by all and managed by its owner."""
    if node.owner_id != request.user.pk:
        raise Forbidden(f"{node.name} is shared with you; only its owner manages it.")
    return node
