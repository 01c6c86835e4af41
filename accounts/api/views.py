"""/api/v1/ssh-keys/"""

from __future__ import annotations

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import generics
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import ssh_keys
from accounts.api import serializers
from accounts.models import SshKey, User


class SshKeysView(generics.ListAPIView[SshKey]):
    """The public keys that open your account by ssh."""

    scope = "ssh-keys"
    serializer_class = serializers.SshKeySerializer
    queryset = SshKey.objects.none()

    def get_queryset(self) -> QuerySet[SshKey]:
        return SshKey.objects.visible_to(self.request.user)

    @extend_schema(request=serializers.NewSshKeySerializer, responses={201: serializers.SshKeySerializer})
    def post(self, request: Request) -> Response:
        """Add one: ed25519, ecdsa, or RSA of 3072 bits or more."""
        wanted = serializers.NewSshKeySerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        assert isinstance(request.user, User)
        fields = wanted.validated_data
        key = ssh_keys.add(user=request.user, text=fields["public_key"], name=fields["name"])
        return Response(serializers.SshKeySerializer(key).data, status=201)


class SshKeyView(generics.RetrieveDestroyAPIView[SshKey]):
    """One of your keys. What somebody has open with it ends when it is deleted."""

    scope = "ssh-keys"
    serializer_class = serializers.SshKeySerializer
    queryset = SshKey.objects.none()

    def get_queryset(self) -> QuerySet[SshKey]:
        return SshKey.objects.visible_to(self.request.user)
