"""Whether a websocket was opened by a page of ours. Browsers send cookies with any page's websocket, so a cookie alone
proves nothing."""

from __future__ import annotations

from collections.abc import Mapping

from django.conf import settings
from django.http.request import split_domain_port, validate_host


def is_ours(headers: Mapping[bytes, bytes]) -> bool:
    """Scheme, name and port of `Origin` are exactly those under which we were asked, or one of CSRF_TRUSTED_ORIGINS."""
    origin = headers.get(b"origin", b"").decode("latin-1")
    host = headers.get(b"host", b"").decode("latin-1")
    allowed = settings.ALLOWED_HOSTS or ["localhost", "127.0.0.1", "[::1]"]
    domain, _ = split_domain_port(host)
    if not domain or not validate_host(domain, allowed):
        return False
    scheme = "https" if settings.HTTPS else "http"
    return origin == f"{scheme}://{host}" or origin in settings.CSRF_TRUSTED_ORIGINS
