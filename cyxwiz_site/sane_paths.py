"""Answers 404 to an address with a NUL in it: no name has one, and PostgreSQL raises an error when asked for it."""

from collections.abc import Callable

from django.http import Http404, HttpRequest, HttpResponse

from cyxwiz_site import api


class SanePathMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if "\0" in request.path_info:
            return api.not_found(request, Http404())
        return self.get_response(request)
