"""Public keys of ssh, of servers and of people, as the line of a .pub file without its comment: "ssh-ed25519 AAAA…". No
I/O."""

from __future__ import annotations

import base64
import hashlib
import struct

from protocol.errors import BadRequest

KEY_TYPES = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")
FINGERPRINT_PREFIX = "SHA256:"


def check_host_key(text: str) -> str:
    """Its type and its bytes, without what may stand around them. Raises BadRequest."""
    words = text.split()
    kind = next((word for word in words if word in KEY_TYPES), None)
    if kind is None:
        raise BadRequest(f"This is no host key: it begins with one of {', '.join(KEY_TYPES)}.")
    encoded = "".join(words[words.index(kind) + 1 :][:1])
    try:
        content = base64.b64decode(encoded, validate=True)
        (length,) = struct.unpack_from("!I", content)
    except (ValueError, struct.error):
        raise BadRequest(f"This is no host key: what follows {kind} is not base64 of one.") from None
    if content[4 : 4 + length] != kind.encode() or len(content) <= 4 + length:
        raise BadRequest(f"This is no host key: its bytes are not those of {kind}.")
    return f"{kind} {encoded}"


def fingerprint(public_key: str) -> str:
    """As `ssh-keygen -l` shows it."""
    content = base64.b64decode(public_key.split()[1])
    return FINGERPRINT_PREFIX + base64.b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
