"""Makes an admin and an API key where they are missing. For programs: JSON on standard input and output.

    in:   {"admin_user": "ada", "admin_password": "…", "api_key": "cyx_…" or null}
    out:  {"api_key": "cyx_…", "password_is_known": true}

The key that was given comes back while it is good. A password that somebody changed stays as it is.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from accounts import keys, scopes
from accounts.models import User


class Wanted(msgspec.Struct, frozen=True):
    admin_user: str
    admin_password: str
    api_key: str | None = None


class Command(BaseCommand):
    help = __doc__

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            wanted = msgspec.json.decode(sys.stdin.buffer.read(), type=Wanted)
        except msgspec.DecodeError as error:
            raise CommandError(f"Standard input: {error}") from error
        user = ensure_user(wanted.admin_user, wanted.admin_password)
        answer = {
            "api_key": ensure_key(user, wanted.api_key),
            "password_is_known": user.check_password(wanted.admin_password),
        }
        self.stdout.write(msgspec.json.encode(answer).decode())


def ensure_user(name: str, password: str) -> User:
    with transaction.atomic():
        user = User.objects.filter(username=name).first()
        if user is None:
            return User.objects.create_superuser(name, password=password)
    if not (user.is_superuser and user.is_staff and user.is_active):
        raise CommandError(f"There is a user {name!r} who is no admin. Nothing was changed.")
    return user


def ensure_key(user: User, text: str | None) -> str:
    # One of an older version may lack a scope that there was not yet.
    if text and (key := keys.authenticate(text)) and key.owner == user and set(scopes.ALL) <= set(key.scopes):
        keys.publish(key)  # Redis may be a new one
        return text
    return keys.issue(user=user, name="quickstart")[1]
