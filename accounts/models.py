"""User, ApiKey and SshKey."""

from django.contrib.auth.models import AbstractUser
from django.db import models
from django.utils import timezone

from accounts.ownership import Owned


class User(AbstractUser):
    pass


class ApiKey(Owned):
    """A secret that acts for its owner, within its scopes. Only a digest of it is stored."""

    key_id = models.CharField(max_length=12, unique=True, editable=False)
    digest = models.CharField(max_length=64, editable=False)
    name = models.CharField(max_length=100, help_text="What it is for.")
    scopes = models.JSONField(default=list, help_text="See accounts.scopes.")
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, editable=False)
    revoked_at = models.DateTimeField(null=True, editable=False)

    class Meta(Owned.Meta):
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.name} (cyx_{self.key_id}_…)"

    @property
    def is_valid(self) -> bool:
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > timezone.now())


class SshKey(Owned):
    """A public key whose holder comes in by ssh as its owner."""

    name = models.CharField(max_length=100, help_text="What it is for, or where.")
    type = models.CharField(max_length=32, editable=False)
    public_key = models.TextField(editable=False, help_text="Base64, as in a .pub file.")
    fingerprint = models.CharField(max_length=64, unique=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    last_used_at = models.DateTimeField(null=True, editable=False)

    class Meta(Owned.Meta):
        ordering = ["-created_at"]
        verbose_name = "SSH key"

    def __str__(self) -> str:
        return f"{self.name} ({self.fingerprint})"
