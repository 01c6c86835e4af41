"""/api/v1/models/"""

from __future__ import annotations

from typing import Any

from django.db.models import Prefetch, QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import get_object_or_404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import generics
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.parsers import BaseParser, MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.models import User
from accounts.ownership import OwnedQuerySet
from models_registry import services, uploads
from models_registry.api import serializers
from models_registry.api.filters import ModelFilter
from models_registry.models import Model, Version, VersionFile
from models_registry.ranged import blob_response
from protocol.errors import BadRequest, NotFound

SHA256 = OpenApiParameter("sha256", description="If given, what arrives must have this digest.")
FILENAME = OpenApiParameter("filename", description="What the file is called, for people; of a raw body.")

NUMBER = OpenApiParameter("number", int, description="Of the version, higher than all before; default: the next.")
TENSORS = "For formats that do not say it themselves: a JSON list of {name, datatype, shape}."
INPUTS = OpenApiParameter("inputs", description=TENSORS)
OUTPUTS = OpenApiParameter("outputs", description=TENSORS)
PATH = OpenApiParameter("path", description="Which file, where the version has several.")


class ModelsView(generics.ListAPIView[Model]):
    scope = "models"
    serializer_class = serializers.ModelSerializer
    queryset = Model.objects.none()
    filterset_class = ModelFilter

    def get_queryset(self) -> OwnedQuerySet:
        return _visible(self.request)

    @extend_schema(request=serializers.NewModelSerializer, responses={201: serializers.ModelSerializer})
    def post(self, request: Request) -> Response:
        """Make a model without a version. The first push to a new name makes one, too."""
        wanted = serializers.NewModelSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        model = services.create_model(owner=_user(request), **wanted.validated_data)
        return Response(serializers.ModelSerializer(model).data, status=201)


class ModelView(generics.RetrieveDestroyAPIView[Model]):
    scope = "models"
    serializer_class = serializers.ModelSerializer
    queryset = Model.objects.none()
    lookup_field = "name"

    def get_queryset(self) -> OwnedQuerySet:
        return _visible(self.request)

    @extend_schema(request=serializers.ModelSerializer, responses=serializers.ModelSerializer)
    def patch(self, request: Request, name: str) -> Response:
        """Change the description. A name stays: deployments and scripts refer to it."""
        change = serializers.ModelSerializer(self.get_object(), data=request.data, partial=True)
        change.is_valid(raise_exception=True)
        change.save()
        return Response(change.data)

    def perform_destroy(self, model: Model) -> None:
        services.delete_model(model)


class LeaveBody(BaseParser):
    """For bodies that the view streams itself. DRF's CSRF check parses every body, to look for a form field."""

    media_type = "*/*"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> dict[str, Any]:
        return {}


class VersionsView(generics.ListAPIView[Version]):
    scope = "models"
    serializer_class = serializers.VersionSerializer
    queryset = Version.objects.none()
    parser_classes = [MultiPartParser, LeaveBody]

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        with uploads.prepared(request):
            return super().dispatch(request, *args, **kwargs)

    def get_queryset(self) -> QuerySet[Version]:
        return _versions(get_object_or_404(_visible(self.request), name=self.kwargs["name"]))

    @extend_schema(
        request={"multipart/form-data": serializers.UploadSerializer, "application/octet-stream": OpenApiTypes.BINARY},
        parameters=[SHA256, FILENAME, NUMBER, INPUTS, OUTPUTS],
        responses={201: serializers.VersionSerializer},
    )
    def post(self, request: Request, name: str) -> Response:
        """Push a version: the file in the field `file` of a multipart body, or as the body itself; a folder as a zip
        archive. The format is recognised from the bytes. What is refused (422) leaves nothing behind."""
        services.checked_name(name)
        with uploads.received(request._request) as upload:
            version = services.add_received(
                owner=_user(request),
                name=name,
                incoming=upload.incoming,
                filename=upload.filename,
                sha256=upload.sha256,
                number=upload.number,
                declared=upload.declared,
            )
        return Response(serializers.VersionSerializer(version).data, status=201)


class VersionView(generics.RetrieveDestroyAPIView[Version]):
    scope = "models"
    serializer_class = serializers.VersionSerializer
    queryset = Version.objects.none()
    lookup_field = "number"

    def get_queryset(self) -> QuerySet[Version]:
        return _versions(get_object_or_404(_visible(self.request), name=self.kwargs["name"]))

    def perform_destroy(self, version: Version) -> None:
        services.delete_version(version)


class AnyAccept(DefaultContentNegotiation):
    """A file is what it is: whatever the caller says to accept gets it, and errors come as JSON."""

    def select_renderer(self, request: Any, renderers: Any, format_suffix: Any = None) -> Any:
        return renderers[0], renderers[0].media_type


class FileView(APIView):
    scope = "models"
    content_negotiation_class = AnyAccept

    @extend_schema(
        parameters=[
            OpenApiParameter("Range", location=OpenApiParameter.HEADER, description="One range of bytes."),
            PATH,
        ],
        responses={
            (200, "application/octet-stream"): OpenApiTypes.BINARY,
            (206, "application/octet-stream"): OpenApiTypes.BINARY,
            304: OpenApiResponse(description="You have it: If-None-Match names its ETag."),
            416: OpenApiResponse(description="The range is not inside the file."),
        },
    )
    def get(self, request: Request, name: str, number: int) -> HttpResponseBase:
        """Download the version's file, or one of several. Its ETag is its SHA-256; Range and If-Range let a broken
        download go on."""
        model = get_object_or_404(_visible(request), name=name)
        version = get_object_or_404(_versions(model), number=number)
        file = _file(list(version.files.all()), request.query_params.get("path"))
        ending = file.path.rpartition(".")[2]
        return blob_response(request._request, file.blob, f"{name}-{number}.{ending}")


def _file(files: list[VersionFile], path: str | None) -> VersionFile:
    if path is None and len(files) == 1:
        return files[0]
    names = ", ".join(file.path for file in files)
    if path is None:
        raise BadRequest(f"This version has several files; name one in ?path=: {names}.")
    found = next((file for file in files if file.path == path), None)
    if found is None:
        raise NotFound(f"This version has no file {path[:255]!r}. It has {names}.")
    return found


def _visible(request: Request) -> OwnedQuerySet:
    return Model.objects.visible_to(request.user).prefetch_related(
        Prefetch("versions", queryset=Version.objects.defer("metadata").order_by("-number"))
    )


def _versions(model: Model) -> QuerySet[Version]:
    return Version.objects.filter(model=model).select_related("model").prefetch_related("files__blob")


def _user(request: Request) -> User:
    assert isinstance(request.user, User)
    return request.user
