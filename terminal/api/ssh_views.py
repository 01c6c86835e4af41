"""/api/v1/terminal/ssh-nodes/"""

from __future__ import annotations

from typing import Any

from django.db.models import Q
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from protocol import ssh
from terminal import ssh_nodes
from terminal.api.views import caller
from terminal.models import SshNode, TerminalGrant


class SshNodeSerializer(serializers.ModelSerializer[SshNode]):
    name = serializers.CharField(source="node.name")
    state = serializers.CharField(source="node.state", read_only=True)
    host_key = serializers.CharField(help_text="The machine's, or its fingerprint (SHA256:…), from a source you trust.")
    fingerprint = serializers.CharField(read_only=True)
    public_key = serializers.CharField(read_only=True, help_text="For `authorized_keys` of the user over there.")
    blocked = serializers.BooleanField(source="is_blocked", read_only=True)
    port = serializers.IntegerField(default=22)

    class Meta:
        model = SshNode
        fields = [
            "name",
            "host",
            "port",
            "user",
            "host_key",
            "fingerprint",
            "public_key",
            "state",
            "problem",
            "blocked",
            "changed_key",
            "looked_at",
            "enrolled_at",
        ]
        read_only_fields = ["problem", "changed_key", "looked_at", "enrolled_at"]


class HostKeySerializer(serializers.Serializer[SshNode]):
    host_key = serializers.CharField(help_text="The key, or its fingerprint (SHA256:…).")


class AddressSerializer(serializers.Serializer[SshNode]):
    host = serializers.CharField()
    port = serializers.IntegerField(default=22)


class OfferedKeySerializer(serializers.Serializer[dict[str, str]]):
    host_key = serializers.CharField()
    fingerprint = serializers.CharField()


class SshNodesView(generics.ListAPIView[SshNode]):
    """Nodes without an agent, reached by ssh, of which you are an owner."""

    scope = "terminal"
    serializer_class = SshNodeSerializer
    queryset = SshNode.objects.none()

    def get_queryset(self) -> Any:
        return _owned(self.request)

    @extend_schema(request=SshNodeSerializer, responses={201: SshNodeSerializer})
    def post(self, request: Request) -> Response:
        """Enrol a machine (staff). Put `public_key` of the answer into its user's `authorized_keys`."""
        wanted = SshNodeSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        fields = dict(wanted.validated_data)
        name = fields.pop("node")["name"]
        row = ssh_nodes.enrol(by=caller(request), name=name, **fields)
        return Response(SshNodeSerializer(row).data, status=201)


class SshNodeView(generics.RetrieveAPIView[SshNode]):
    """One of them. It is removed as every node is: DELETE /api/v1/nodes/<name>/."""

    scope = "terminal"
    serializer_class = SshNodeSerializer
    queryset = SshNode.objects.none()
    lookup_field = "node__name"
    lookup_url_kwarg = "name"

    def get_queryset(self) -> Any:
        return _owned(self.request)

    @extend_schema(request=HostKeySerializer, responses=SshNodeSerializer)
    def patch(self, request: Request, name: str) -> Response:
        """Take another host key from now on: the machine was set up anew, and you have compared it."""
        row = get_object_or_404(_owned(request), node__name=name)
        wanted = HostKeySerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        ssh_nodes.pin(row, wanted.validated_data["host_key"], by=caller(request))
        return Response(SshNodeSerializer(row).data)


class OfferedKeysView(APIView):
    scope = "terminal"

    @extend_schema(request=AddressSerializer, responses=OfferedKeySerializer(many=True))
    def post(self, request: Request) -> Response:
        """Which host keys a machine shows (staff). Compare them with what you know of it: anybody in between could
        show others."""
        wanted = AddressSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        keys = ssh_nodes.offered_keys(by=caller(request), **wanted.validated_data)
        return Response([{"host_key": key, "fingerprint": ssh.fingerprint(key)} for key in keys])


def _owned(request: Request) -> Any:
    user = caller(request)
    granted = TerminalGrant.objects.filter(user=user, role=TerminalGrant.Role.OWNER).values("node")
    return SshNode.objects.filter(Q(node__owner=user) | Q(node__in=granted)).select_related("node")
