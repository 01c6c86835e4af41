"""Who may call an API view: signed in, and within the scopes of the key that was used."""

from __future__ import annotations

from typing import Any

from django.dispatch import Signal
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from accounts import scopes
from accounts.models import ApiKey

# With `key`, `scope`, `message`: an API key was used for what it is not for.
scope_lacked = Signal()


class HasScope(BasePermission):
    """The view says `scope = "models"`: reading wants models:read, all else models:write. A browser session has all
    scopes. Every view must say its scope; one that does not is closed."""

    def has_permission(self, request: Request, view: Any) -> bool:
        area: str = view.scope
        if not request.user.is_authenticated:
            return False
        if not isinstance(request.auth, ApiKey):
            return True
        wanted = f"{area}:{'read' if request.method in SAFE_METHODS else 'write'}"
        self.message = f"This API key lacks the scope {wanted}."
        allowed = scopes.allows(request.auth.scopes, wanted)
        if not allowed:
            scope_lacked.send(sender=type(view), key=request.auth, scope=wanted, message=self.message)
        return allowed
