"""What every REST endpoint shares: errors as RFC 9457 problem details, and pages."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

import redis
from django.core.exceptions import PermissionDenied
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from rest_framework import exceptions
from rest_framework.pagination import PageNumberPagination
from rest_framework.response import Response
from rest_framework.views import set_rollback

from protocol.errors import CyxwizError, Unavailable

log = logging.getLogger(__name__)
PROBLEM = "application/problem+json"
DATABASE_AWAY = (OperationalError, InterfaceError)
OUTAGES = (redis.RedisError, *DATABASE_AWAY)


class Pages(PageNumberPagination):
    page_size_query_param = "page_size"
    max_page_size = 500


def problem(error: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's exception handler. None lets Django answer 500, by `server_error` below."""
    body, headers = _describe(error)
    if body is None:
        return None
    set_rollback()
    return Response(_with_request_id(context["request"], body), body["status"], headers=headers, content_type=PROBLEM)


def _describe(error: Exception) -> tuple[dict[str, Any] | None, dict[str, str]]:
    if isinstance(error, redis.RedisError):
        log.error("Redis does not answer: %s", error)
        error = Unavailable("Redis does not answer; nothing was changed. Try again shortly.")
    if isinstance(error, DATABASE_AWAY):
        log.error("The database: %s", error)
        error = Unavailable("The database does not answer. Try again shortly.")
    if isinstance(error, CyxwizError):
        headers = {"Retry-After": str(error.retry_after_seconds)} if isinstance(error, Unavailable) else {}
        return problem_body(error.status, error.code, error.message) | error.details, headers
    if isinstance(error, Http404):
        error = exceptions.NotFound("There is nothing at this address that you may see.")
    if isinstance(error, PermissionDenied):
        error = exceptions.PermissionDenied()
    if isinstance(error, exceptions.ValidationError):
        fields = error.detail if isinstance(error.detail, dict) else {"": error.detail}
        lines = [f"{name}: {_first(why)}" if name else _first(why) for name, why in fields.items()]
        return problem_body(400, "bad_request", " ".join(lines)) | {"errors": error.detail}, {}
    if isinstance(error, exceptions.APIException):
        headers = {}
        if header := getattr(error, "auth_header", None):
            headers["WWW-Authenticate"] = header
        if wait := getattr(error, "wait", None):
            headers["Retry-After"] = str(int(wait) + 1)
        code = error.get_codes()
        return problem_body(
            error.status_code, code if isinstance(code, str) else error.default_code, str(error.detail)
        ), headers
    return None, {}


def _first(why: Any) -> str:
    while isinstance(why, list | dict):
        why = next(iter(why.values() if isinstance(why, dict) else why))
    return str(why)


def problem_body(status: int, code: str, detail: str) -> dict[str, Any]:
    return {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "code": code, "detail": detail}


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """A page for who wants one: people follow links to what is gone, or not theirs."""
    if not _wants_a_page(request):
        return _plain(request, 404, "not_found", "There is nothing at this address.")
    try:
        return render(request, "not_found.html", status=404)
    except OUTAGES as outage:  # it says to whom
        return unavailable(request, outage)


def unavailable(request: HttpRequest, outage: Exception) -> HttpResponse:
    """What an endpoint answers by `problem`, for every other address: one of `OUTAGES` has met it."""
    body, headers = _describe(outage)
    assert body is not None
    if _wants_a_page(request):  # which asks nobody who this is
        page = render_to_string("unavailable.html", {"detail": body["detail"]})
        return HttpResponse(page, status=body["status"], headers=headers)
    return JsonResponse(_with_request_id(request, body), status=body["status"], headers=headers, content_type=PROBLEM)


def _wants_a_page(request: HttpRequest) -> bool:
    return request.get_preferred_type([PROBLEM, "text/html"]) == "text/html"


def server_error(request: HttpRequest) -> JsonResponse:
    return _plain(request, 500, "error", "An error of ours. The log has it under this request id.")


def _plain(request: HttpRequest, status: int, code: str, detail: str) -> JsonResponse:
    return JsonResponse(
        _with_request_id(request, problem_body(status, code, detail)), status=status, content_type=PROBLEM
    )


def _with_request_id(request: HttpRequest, body: dict[str, Any]) -> dict[str, Any]:
    return body | {"request_id": request.META.get("REQUEST_ID", "")}
