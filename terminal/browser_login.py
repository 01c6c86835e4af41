"""By which login of a browser a websocket came in. The cookie is read at the handshake only, so whether somebody logged
out since, or has another password, has to be asked of the session store."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.backends.base import SessionBase
from django.utils.crypto import constant_time_compare

from accounts.models import User


@dataclass(frozen=True)
class BrowserLogin:
    session_key: str
    auth_hash: str  # changes with the password

    @classmethod
    def of(cls, session: Any) -> BrowserLogin:
        return cls(session.session_key, session[HASH_SESSION_KEY])

    def holds(self, user: User) -> bool:
        """Looks only. Django's `get_user` also renews a session, which would log out the browser."""
        store: type[SessionBase] = import_module(settings.SESSION_ENGINE).SessionStore
        same_user = store(self.session_key).get(SESSION_KEY) == str(user.pk)
        return same_user and constant_time_compare(self.auth_hash, user.get_session_auth_hash())
