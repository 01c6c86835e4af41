"""Who calls: API keys by their digest, in memory, asked from Redis once and dropped when the control plane says so."""

from __future__ import annotations

import time

import msgspec

from gateway.broker import Broker
from protocol import credentials, names
from protocol.errors import Forbidden, NotAuthenticated
from protocol.routes import Key

INFER = "infer"
MOST_KNOWN = 50_000
MOST_UNKNOWN = 10_000  # someone who tries many keys must not fill the memory, nor ask Redis for each again
UNKNOWN_SECONDS = 5.0

_decode = msgspec.json.Decoder(Key).decode
_MISSING = "An API key is needed: send the header 'Authorization: Bearer cyx_…'."
_INVALID = "This API key is not valid: unknown, expired or revoked."


class Keys:
    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._known: dict[str, Key] = {}
        self._unknown: dict[str, float] = {}  # digest -> until when (monotonic)

    async def owner(self, authorization: bytes | None) -> int:
        """The id of the user for whom the caller may ask for inference."""
        if authorization is None:
            raise NotAuthenticated(_MISSING)
        scheme, _, text = authorization.decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            raise NotAuthenticated(_MISSING)
        digest = credentials.digest(text)
        key = self._known.get(digest) or await self._ask(text, digest)
        if key is None or (key.expires_at is not None and key.expires_at <= time.time()):
            raise NotAuthenticated(_INVALID)
        if INFER not in key.scopes:
            raise Forbidden(f"This API key lacks the scope {INFER}.")
        return key.owner_id

    async def _ask(self, text: str, digest: str) -> Key | None:
        now = time.monotonic()
        if credentials.parse(text, credentials.API_KEY) is None or self._unknown.get(digest, 0.0) > now:
            return None
        entry = await self._broker.ask("HGET", names.KEYS, digest)
        if entry is None:
            if len(self._unknown) >= MOST_UNKNOWN:
                self._unknown.clear()
            self._unknown[digest] = now + UNKNOWN_SECONDS
            return None
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        key = self._known[digest] = _decode(entry)
        return key

    def forget(self, digest: str) -> None:
        """It changed."""
        self._known.pop(digest, None)
        self._unknown.pop(digest, None)

    async def check(self) -> None:
        """Drops what is no longer published, in case news of it was lost."""
        digests = list(self._known)
        if not digests:
            return
        entries = await self._broker.ask("HMGET", names.KEYS, *digests)
        if all(entry is None for entry in entries) and not await self._broker.ask("EXISTS", names.KEYS):
            return  # Redis lost its memory, which revokes no key: the control plane republishes them
        for digest, entry in zip(digests, entries, strict=True):
            if entry is None:
                self.forget(digest)
            else:
                self._known[digest] = _decode(entry)
