"""Every error of the REST API is a problem document (RFC 9457) with a stable code and the id of the request."""

from __future__ import annotations

import logging

import pytest
import redis
from django.test import Client

from accounts import keys, live


def check(answer, status: int, code: str) -> dict:
    assert answer.status_code == status
    assert answer["Content-Type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert body["code"] == code
    assert body["type"] == "about:blank"
    assert body["title"]
    assert body["detail"]
    assert body["request_id"] == answer["X-Request-Id"]
    return body


def test_no_such_row_and_no_such_address(owner):
    check(owner.get("/api/v1/models/none/"), 404, "not_found")
    check(owner.get("/api/v1/none/"), 404, "not_found")
    check(owner.get("/none"), 404, "not_found")
    check(owner.get("/api/v1/models/%00/"), 404, "not_found")


def test_a_browser_is_shown_a_page_of_what_is_not_there(owner):
    owner.client.force_login(owner.user)
    accept = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    answer = owner.client.get("/terminal/nodes/none/", headers={"Accept": accept})
    assert (answer.status_code, answer["Content-Type"]) == (404, "text/html; charset=utf-8")
    assert "There is nothing at this address that olga may see." in answer.content.decode()
    for accept in ("*/*", "application/json"):
        check(owner.client.get("/none", headers={"Accept": accept}), 404, "not_found")


def test_a_method_that_is_not_there(owner):
    answer = owner.client.put("/api/v1/models/", {}, content_type="application/json")
    check(answer, 405, "method_not_allowed")
    assert "POST" in answer["Allow"]


def test_json_that_is_none(owner):
    answer = owner.client.post("/api/v1/models/", b'{"name": ', content_type="application/json")
    assert "JSON" in check(answer, 400, "parse_error")["detail"]


def test_fields_that_are_missing_or_wrong_are_named(owner):
    body = check(owner.post("/api/v1/models/", {"description": []}), 400, "bad_request")
    assert body["errors"]["name"] == ["This field is required."]
    assert "name: This field is required." in body["detail"]
    assert "description" in body["errors"]


def test_a_body_of_another_kind(owner):
    answer = owner.client.post("/api/v1/models/", b"<x/>", content_type="application/xml")
    check(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize("header", [None, "Bearer cyx_000000000000_" + "0" * 64, "Bearer x", "Basic dTpw"])
def test_without_a_valid_key(db, empty_redis, header):
    answer = Client(headers={"Authorization": header} if header else None).get("/api/v1/models/")
    assert answer.status_code == 401
    assert answer["WWW-Authenticate"].startswith("Bearer")
    assert check(answer, 401, answer.json()["code"])["code"] in ("not_authenticated", "authentication_failed")


def test_a_key_without_the_scope(owner):
    _, text = keys.issue(user=owner.user, name="jobs only", wanted=["jobs:write"])
    answer = Client(headers={"Authorization": f"Bearer {text}"}).get("/api/v1/models/")
    assert "models:read" in check(answer, 403, "permission_denied")["detail"]


def test_redis_away_is_a_503_that_says_so(owner, monkeypatch, tmp_path):
    gone = redis.Redis(unix_socket_path=str(tmp_path / "no.sock"))
    monkeypatch.setattr(live, "connection", lambda: gone)
    assert Client().get("/readyz").json()["redis"] == "does not answer"
    assert Client().get("/healthz").status_code == 200


def test_an_error_of_ours_tells_no_secrets(owner, monkeypatch, caplog):
    from models_registry.api.views import ModelsView

    def breaks(self):
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(ModelsView, "get_queryset", breaks)
    owner.client.raise_request_exception = False
    with caplog.at_level(logging.CRITICAL, logger="django.request"):
        answer = owner.get("/api/v1/models/")
    assert "hunter2" not in str(check(answer, 500, "error"))


@pytest.mark.parametrize(("given", "echoed"), [("abc-1.2_3", True), ("a b", False), ("x" * 65, False), ("", False)])
def test_a_sane_request_id_is_echoed(client, given, echoed):
    answer = client.get("/healthz", headers={"X-Request-Id": given})
    assert (answer["X-Request-Id"] == given) == echoed
    assert answer["X-Request-Id"]


def test_two_requests_have_two_ids(client):
    assert client.get("/healthz")["X-Request-Id"] != client.get("/healthz")["X-Request-Id"]
