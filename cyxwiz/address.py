"""Server addresses as people type them."""

from urllib.parse import urlsplit

from cyxwiz.errors import BadInput


def checked_url(text: str) -> str:
    """The server's address without a trailing slash."""
    parts = urlsplit(text.strip())
    try:
        valid = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:  # the port is no number
        valid = False
    if not valid or parts.query or parts.fragment:
        raise BadInput(f"{text!r} is not a server address. It looks like http://127.0.0.1:8080")
    if parts.username or parts.password:
        raise BadInput("Put no user name or password into the address: the API key says who you are.")
    return parts.geturl().rstrip("/")
