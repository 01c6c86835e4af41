"""Every endpoint is closed unless it says who may call it."""

import re
from collections.abc import Iterator

import pytest
from asgiref.sync import async_to_sync
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from accounts import scopes
from accounts.permissions import HasScope
from cyxwiz_site.asgi import application
from terminal import routing


def addresses(resolver: URLResolver, prefix: str = "") -> Iterator[tuple[str, type]]:
    """(address, view class) of everything below `resolver`."""
    for entry in resolver.url_patterns:
        address = prefix + str(entry.pattern)
        if isinstance(entry, URLResolver):
            yield from addresses(entry, address)
        elif isinstance(entry, URLPattern):
            view = getattr(entry.callback, "cls", None) or getattr(entry.callback, "view_class", None)
            yield address, view  # type: ignore[misc]


ALL = dict(addresses(get_resolver()))
API = {address: view for address, view in ALL.items() if address.startswith("api/v1/")}
NODE_API = {address: view for address, view in ALL.items() if address.startswith("api/node/v1/")}


def test_there_is_something_to_look_at() -> None:
    assert API
    assert NODE_API


@pytest.mark.parametrize("address", sorted(API))
def test_api_view_says_its_scope(address: str) -> None:
    view = API[address]
    assert view is not None, "Not a class-based DRF view, so no permission guards it."
    assert getattr(view, "scope", None) in scopes.AREAS
    assert any(issubclass(permission, HasScope) for permission in view.permission_classes)  # type: ignore[attr-defined]


@pytest.mark.parametrize("address", sorted(set(NODE_API) - {"api/node/v1/register"}))
def test_node_view_takes_only_node_tokens(address: str) -> None:
    view = NODE_API[address]
    names = [authentication.__name__ for authentication in view.authentication_classes]  # type: ignore[attr-defined]
    assert names == ["NodeAuthentication"]


# Each with the reason why anybody may ask.
PUBLIC = {
    "": "sends people on to where they may be",
    "login/": "to sign in",
    "logout/": "to sign out",
    "admin/login/": "to sign in",
    "admin/logout/": "to sign out",
    "api/schema/": "the shape of the API is no secret",
    "api/docs/": "the shape of the API is no secret",
    "api/node/v1/register": "asks for a join token in its body",
    "healthz": "for whoever watches processes",
    "readyz": "for whoever watches processes",
}
FILLED = {"int": "1", "uuid": "00000000-0000-4000-8000-000000000000"}


@pytest.mark.django_db
@pytest.mark.parametrize("address", sorted(set(ALL) - set(PUBLIC)))
def test_whoever_is_not_known_gets_nowhere(address: str, client: Client) -> None:
    """Before anything is looked up: whether a thing exists is no answer for strangers."""
    path = "/" + re.sub(r"<(?:(\w+):)?\w+>", lambda found: FILLED.get(found[1] or "str", "x"), address)
    path = path.replace("^(?P<url>.*)$", "x").replace("$", "").replace("^", "")
    for ask in (client.get, client.post, client.delete, client.patch):
        answer = ask(path)
        if answer.status_code == 302:
            assert answer["Location"].startswith(("/login/", "/admin/login/")), (path, answer["Location"])
        else:
            assert answer.status_code in (401, 403), (path, answer.status_code)


def test_what_is_public_is_there() -> None:
    assert set(PUBLIC) <= set(ALL)


@pytest.mark.parametrize("route", routing.urlpatterns, ids=str)
def test_a_websocket_opens_for_nobody_who_is_not_known(
    route: URLPattern, empty_redis: object, transactional_db: None
) -> None:
    path = "/" + re.sub(r"<(?:(\w+):)?\w+>", lambda found: FILLED.get(found[1] or "str", "x"), str(route.pattern))

    async def knock(headers: list[tuple[bytes, bytes]]) -> str:
        """What it is answered first."""
        said: list[str] = []

        async def send(message: dict[str, object]) -> None:
            said.append(str(message["type"]))

        async def receive() -> dict[str, object]:
            return {"type": "websocket.connect" if not said else "websocket.disconnect", "code": 1006}

        scope = {"type": "websocket", "path": path, "headers": headers, "query_string": b"", "subprotocols": []}
        await application(scope, receive, send)
        return said[0]

    for headers in ([], [(b"authorization", b"Bearer cyx_no_key")], [(b"origin", b"http://testserver")]):
        assert async_to_sync(knock)(headers) == "websocket.close"
