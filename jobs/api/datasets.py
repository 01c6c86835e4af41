"""/api/v1/jobs/datasets/"""

from __future__ import annotations

from typing import Any, cast

from django.http import HttpRequest, HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import User
from accounts.ownership import OwnedQuerySet
from jobs import datasets
from jobs.api.serializers import DatasetSerializer
from jobs.models import Dataset
from models_registry import uploads
from models_registry.api.views import LeaveBody
from protocol.datasets import FORMATS, Format
from protocol.errors import BadRequest


class DatasetsView(generics.ListAPIView[Dataset]):
    scope = "jobs"
    serializer_class = DatasetSerializer
    queryset = Dataset.objects.none()
    parser_classes = [MultiPartParser, LeaveBody]

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        with uploads.prepared(request):
            return super().dispatch(request, *args, **kwargs)

    def get_queryset(self) -> OwnedQuerySet:
        return _visible(self.request)

    @extend_schema(
        request={"application/octet-stream": OpenApiTypes.BINARY},
        parameters=[
            OpenApiParameter("sha256", description="If given, what arrives must have this digest."),
            OpenApiParameter("filename", description="What the file is called, for people."),
            OpenApiParameter("format", description="If left out, the first bytes tell.", enum=FORMATS),
        ],
        responses={201: DatasetSerializer, 200: DatasetSerializer},
    )
    def post(self, request: Request) -> Response:
        """Upload a data set for jobs: the file as the body, or in the field `file` of a multipart body. 200 in place of
        201 means that you have uploaded it before."""
        format = request.query_params.get("format")
        if format not in (None, *FORMATS):
            raise BadRequest(f"format must be one of {', '.join(FORMATS)}, not {format!r}.")
        assert isinstance(request.user, User)
        with uploads.received(request._request) as upload:
            dataset, is_new = datasets.put(
                owner=request.user,
                incoming=upload.incoming,
                filename=upload.filename,
                sha256=upload.sha256,
                format=cast("Format | None", format),
            )
        return Response(DatasetSerializer(dataset).data, status=201 if is_new else 200)


class DatasetView(generics.RetrieveDestroyAPIView[Dataset]):
    """Deleting is always possible: jobs over it keep the file."""

    scope = "jobs"
    serializer_class = DatasetSerializer
    queryset = Dataset.objects.none()
    lookup_field = "pk"
    lookup_url_kwarg = "id"

    def get_queryset(self) -> OwnedQuerySet:
        return _visible(self.request)


def _visible(request: Request) -> OwnedQuerySet:
    return Dataset.objects.visible_to(request.user).select_related("blob")
