"""The schema is complete, and the pages of the API and the admin fetch nothing from the internet."""

from __future__ import annotations

import re

import pytest
from django.core.management import call_command
from django.test import Client

ADDRESS = re.compile(r"""(?:src|href)\s*=\s*["']([^"']+)["']|url\(["']?([^"')]+)""")


def test_the_schema_is_valid_and_nothing_is_guessed(tmp_path):
    call_command("spectacular", file=str(tmp_path / "openapi.yaml"), validate=True, fail_on_warn=True)


def test_the_schema_is_served_and_names_the_paths(client):
    schema = client.get("/api/schema/", headers={"Accept": "application/json"}).json()
    assert schema["openapi"].startswith("3.1")
    for path in ("/api/v1/models/", "/api/v1/models/{name}/versions/", "/api/v1/models/{name}/versions/{number}/file"):
        assert path in schema["paths"]
    assert not [path for path in schema["paths"] if path.startswith("/api/node/")]
    upload = schema["paths"]["/api/v1/models/{name}/versions/"]["post"]["requestBody"]["content"]
    assert set(upload) == {"multipart/form-data", "application/octet-stream"}


@pytest.mark.parametrize("page", ["/api/docs/", "/admin/", "/admin/models_registry/model/"])
def test_pages_work_offline(admin, page):
    browser = Client()
    browser.force_login(admin.user)
    answer = browser.get(page)
    assert answer.status_code == 200
    addresses = fetched_by(answer.content.decode())
    assert addresses
    for address in addresses:
        assert address.startswith("/"), f"{page} fetches {address}"
        assert not address.startswith("//"), f"{page} fetches {address}"
        fetched = browser.get(address)
        assert fetched.status_code == 200, address
        assert fetched.getvalue()


def fetched_by(html: str) -> set[str]:
    """What a browser fetches by itself: all but links to other pages."""
    html = re.sub(r"<a\s[^>]*>", "", html)
    found = {a or b for a, b in ADDRESS.findall(html)}
    return {address for address in found if not address.startswith(("data:", "#"))}


def test_swagger_does_not_report_to_a_validator(client):
    assert '"validatorUrl": null' in client.get("/api/docs/?script=").content.decode()
