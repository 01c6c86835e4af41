"""Shapes of ssh keys in the REST API."""

from __future__ import annotations

from rest_framework import serializers

from accounts.models import SshKey


class SshKeySerializer(serializers.ModelSerializer[SshKey]):
    class Meta:
        model = SshKey
        fields = ["id", "name", "type", "fingerprint", "created_at", "last_used_at"]


class NewSshKeySerializer(serializers.Serializer[SshKey]):
    public_key = serializers.CharField(help_text="The line of a .pub file.")
    name = serializers.CharField(
        default="", allow_blank=True, max_length=100, help_text="What it is for; else the comment in the line."
    )
