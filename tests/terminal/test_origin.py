"""Which pages may open a websocket with somebody's cookie."""

from __future__ import annotations

import pytest

from terminal import origin

HOST = "cyxwiz.example:8000"


@pytest.fixture(autouse=True)
def site(settings) -> None:
    settings.ALLOWED_HOSTS = ["cyxwiz.example"]
    settings.HTTPS = True
    settings.CSRF_TRUSTED_ORIGINS = ["https://other.example"]


@pytest.mark.parametrize(
    ("page", "host"),
    [("https://cyxwiz.example:8000", HOST), ("https://other.example", HOST)],
)
def test_ours(page: str, host: str) -> None:
    assert origin.is_ours({b"origin": page.encode(), b"host": host.encode()})


@pytest.mark.parametrize(
    ("page", "host"),
    [
        ("", HOST),
        ("null", HOST),
        ("http://cyxwiz.example:8000", HOST),
        ("https://cyxwiz.example", HOST),
        ("https://cyxwiz.example:80000", HOST),
        ("https://cyxwiz.example:8000.evil.example", HOST),
        ("https://evil.cyxwiz.example:8000", HOST),
        ("https://other.example.evil.example", HOST),
        ("https://evil.example", "evil.example"),
        ("https://", ""),
    ],
)
def test_others(page: str, host: str) -> None:
    assert not origin.is_ours({b"origin": page.encode(), b"host": host.encode()})
