"""/api/v1/jobs/"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, PolymorphicProxySerializer, extend_schema
from rest_framework import generics
from rest_framework.exceptions import NotAcceptable
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.models import User
from accounts.ownership import OwnedQuerySet
from jobs import queueing, results, services
from jobs.api import serializers
from jobs.api.filters import JobFilter
from jobs.api.parsers import BinaryJobParser, JobParser
from jobs.models import Job
from jobs.states import JobState
from models_registry.ranged import blob_response
from protocol import oip
from protocol.errors import BadRequest, Conflict

BINARY = "application/octet-stream"


NEW_JOB = PolymorphicProxySerializer(
    component_name="NewJobOfEitherKind",
    serializers=[serializers.NewJobSerializer, serializers.NewJobOverRowsSerializer],
    resource_type_field_name=None,
)


class JobsView(generics.ListAPIView[Job]):
    scope = "jobs"
    serializer_class = serializers.JobSerializer
    queryset = Job.objects.none()
    filterset_class = JobFilter
    parser_classes = [JobParser, BinaryJobParser]

    def get_queryset(self) -> OwnedQuerySet:
        return _visible(self.request)

    @extend_schema(
        request={"application/json": NEW_JOB, BINARY: OpenApiTypes.BINARY},
        responses={201: serializers.JobSerializer, 200: serializers.JobSerializer},
        parameters=[
            OpenApiParameter(
                "Idempotency-Key",
                str,
                OpenApiParameter.HEADER,
                description="The same request under the same key makes one job, however often it is sent.",
            ),
            OpenApiParameter(
                oip.HEADER,
                int,
                OpenApiParameter.HEADER,
                description="With application/octet-stream: how long the JSON is, after which raw tensors follow.",
            ),
        ],
    )
    def post(self, request: Request) -> Response:
        """Run a model once. The body is an Open Inference Protocol request that also names the model, or JSON that
        names the model and a data set; 200 in place of 201 means that the Idempotency-Key was used for it before."""
        assert isinstance(request.user, User)
        who: dict[str, Any] = {"owner": request.user, "idempotency_key": request.headers.get("Idempotency-Key")}
        over_rows = "dataset" in request.data
        wanted = (serializers.NewJobOverRowsSerializer if over_rows else serializers.NewJobSerializer)(
            data=request.data
        )
        wanted.is_valid(raise_exception=True)
        fields = dict(wanted.validated_data)
        if over_rows:
            outputs = [output["name"] for output in fields.pop("outputs", [])]
            job, is_new = services.submit_over_rows(**who, **fields, outputs=outputs)
        else:
            job, is_new = services.submit(**who, request=fields.pop("inputs"), **fields)
        return Response(serializers.JobSerializer(job).data, status=201 if is_new else 200)


class JobView(APIView):
    scope = "jobs"

    @extend_schema(responses=serializers.JobDetailSerializer)
    def get(self, request: Request, id: UUID) -> Response:
        """What became of a job. One that is queued says in `reason` what it waits for."""
        job = _find(request, id)
        queueing.explain_one(job)
        return Response(serializers.JobDetailSerializer(job).data)


class CancelView(APIView):
    scope = "jobs"

    @extend_schema(request=None, responses=serializers.JobSerializer)
    def post(self, request: Request, id: UUID) -> Response:
        """409 when it has ended already; cancelling twice is fine."""
        job = _find(request, id)
        services.cancel(job)
        return Response(serializers.JobSerializer(job).data)


class BinaryRenderer(JSONRenderer):
    """Offers the binary form to `Accept`; errors are JSON all the same."""

    media_type = BINARY
    format = "binary"


class ResultView(APIView):
    scope = "jobs"
    renderer_classes = [JSONRenderer, BinaryRenderer]

    @extend_schema(
        responses={
            (200, "application/json"): serializers.ResultSerializer,
            (200, BINARY): OpenApiTypes.BINARY,
            (206, BINARY): OpenApiTypes.BINARY,
        }
    )
    def get(self, request: Request, id: UUID) -> HttpResponseBase:
        """The Open Inference Protocol response: as JSON, or in binary form with `Accept: application/octet-stream`
        (the header Inference-Header-Content-Length then says where the raw tensors begin). Of a job over a data set:
        the file, of which Range gives a part."""
        job = _find(request, id)
        _check_succeeded(job)
        if job.over_rows:
            filename = f"{job.version.model.name}-{str(job.pk)[:8]}.{job.over_rows['result_format']}"
            return blob_response(request._request, job.result_blob, filename)
        if request.accepted_renderer.media_type == BINARY:
            result = results.load(job)
            return HttpResponse(result.body, content_type=BINARY, headers={oip.HEADER: str(result.header_bytes)})
        try:
            return HttpResponse(results.as_json(job), content_type="application/json")
        except BadRequest as error:
            raise NotAcceptable(
                f"The result has no JSON form. {error.message} For a job: send Accept: {BINARY}."
            ) from error


def _check_succeeded(job: Job) -> None:
    if job.state == JobState.SUCCEEDED:
        return
    if JobState(job.state).is_final:
        raise Conflict(
            f"The job has no result: it is {job.state}. {job.reason}".strip(),
            state=job.state,
            error_code=job.error_code,
        )
    raise Conflict(f"The job has no result yet: it is {job.state}.", state=job.state)


def _visible(request: Request) -> OwnedQuerySet:
    return Job.objects.visible_to(request.user).select_related("version__model", "node", "device", "owner")


def _find(request: Request, id: UUID) -> Any:
    found = _visible(request).select_related("result_blob", "version__model", "node", "device", "owner")
    return get_object_or_404(found.prefetch_related("events__node"), pk=id)
