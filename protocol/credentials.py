"""The secrets people and nodes carry: `cyx_<id>_<secret>` keys, `cyxj_…` join tokens, `cyxn_…` node tokens.

The prefix lets secret scanners recognise them; the id finds the row; only a SHA-256 digest is stored. The secret is
256 random bits, so a slow password hash would add cost and no safety.
"""

import hashlib
import secrets
from dataclasses import dataclass, field

API_KEY = "cyx"
JOIN_TOKEN = "cyxj"
NODE_TOKEN = "cyxn"


@dataclass(frozen=True)
class Credential:
    kind: str
    id: str
    text: str = field(repr=False)

    @property
    def digest(self) -> str:
        return digest(self.text)


def new(kind: str) -> Credential:
    id = secrets.token_hex(6)
    return Credential(kind, id, f"{kind}_{id}_{secrets.token_hex(32)}")


def parse(text: str, kind: str) -> Credential | None:
    """None when `text` does not have the shape of such a credential."""
    parts = text.split("_")
    if len(parts) != 3 or parts[0] != kind or len(parts[1]) != 12 or len(parts[2]) != 64:
        return None
    return Credential(kind, parts[1], text)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
