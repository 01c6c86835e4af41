"""Server addresses as people type them."""

from urllib.parse import SplitResult, urlsplit

from cyxwiz.errors import BadInput


def checked_url(text: str) -> str:
    """The server's address without a trailing slash."""
    parts = _split(text.strip())
    if parts is None or parts.query or parts.fragment:
        raise BadInput(f"{text!r} is not a server address. It looks like http://127.0.0.1:8080")
    if parts.username or parts.password:
        raise BadInput("Put no user name or password into the address: the API key says who you are.")
    return parts.geturl().rstrip("/")


def _split(text: str) -> SplitResult | None:
    """None if it is no HTTP address."""
    try:
        parts = urlsplit(text)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that is not closed
        return None
    return parts if sound and text.isprintable() and " " not in text else None
