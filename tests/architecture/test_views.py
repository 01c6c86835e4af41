"""Every endpoint is closed unless it says who may call it."""

from collections.abc import Iterator

import pytest
from django.urls import URLPattern, URLResolver, get_resolver

from accounts import scopes
from accounts.permissions import HasScope


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
