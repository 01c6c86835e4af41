"""/api/v1/deployments/"""

from __future__ import annotations

from typing import Any

from django.shortcuts import get_object_or_404
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.models import User
from accounts.ownership import OwnedQuerySet
from deployments import logs, previews, services
from deployments.api import serializers
from deployments.api.filters import DeploymentFilter
from deployments.models import Deployment, DeploymentEvent, DeploymentMetric
from models_registry.services import find_version
from protocol.errors import BadRequest

MOST_LINES = 2000


class DeploymentsView(generics.ListAPIView[Deployment]):
    scope = "deployments"
    serializer_class = serializers.DeploymentSerializer
    queryset = Deployment.objects.none()
    filterset_class = DeploymentFilter

    def get_queryset(self) -> OwnedQuerySet:
        return _visible(self.request)

    @extend_schema(
        request=serializers.NewDeploymentSerializer,
        parameters=[OpenApiParameter("dry_run", bool, description="Only say where its replicas would go, or why not.")],
        responses={201: serializers.DeploymentSerializer, 200: serializers.PreviewSerializer},
    )
    def post(self, request: Request) -> Response:
        """Keep a model version loaded. A replica without room waits, and its `reason` says for each node why not."""
        wanted = serializers.NewDeploymentSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        fields = dict(wanted.validated_data)
        assert isinstance(request.user, User)
        version = find_version(request.user, fields.pop("model"), fields.pop("version", None))
        if _is_dry_run(request):
            preview = services.dry_run(owner=request.user, version=version, **fields)
            return Response(serializers.PreviewSerializer(preview).data)
        deployment = services.deploy(owner=request.user, version=version, **fields)
        return Response(_shown(request, deployment.name), status=201)


class DeploymentView(generics.RetrieveDestroyAPIView[Deployment]):
    scope = "deployments"
    serializer_class = serializers.DeploymentSerializer
    queryset = Deployment.objects.none()
    lookup_field = "name"

    def get_queryset(self) -> OwnedQuerySet:
        return _visible(self.request)

    def perform_destroy(self, deployment: Deployment) -> None:
        services.delete(deployment)


class ActionView(APIView):
    """Base of the verbs: POST deployments/<name>/<verb> answers with the deployment as it is then."""

    scope = "deployments"

    @extend_schema(request=None, responses=serializers.DeploymentSerializer)
    def post(self, request: Request, name: str) -> Response:
        self.act(_find(request, name))
        return Response(_shown(request, name))

    def act(self, deployment: Deployment) -> None:
        raise TypeError("each verb says what it does")


class StartView(ActionView):
    def act(self, deployment: Deployment) -> None:
        services.start(deployment)


class StopView(ActionView):
    def act(self, deployment: Deployment) -> None:
        services.stop(deployment)


class RestartView(ActionView):
    def act(self, deployment: Deployment) -> None:
        services.restart(deployment)


class ScaleView(APIView):
    scope = "deployments"

    @extend_schema(request=serializers.ScaleSerializer, responses=serializers.DeploymentSerializer)
    def post(self, request: Request, name: str) -> Response:
        deployment = _find(request, name)
        wanted = serializers.ScaleSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        services.scale(deployment, wanted.validated_data["replicas"])
        return Response(_shown(request, name))


class PlacementView(APIView):
    scope = "deployments"

    @extend_schema(responses=serializers.PreviewSerializer)
    def get(self, request: Request, name: str) -> Response:
        """Where the replicas that wait would go now, or for each node why not, and what would help."""
        return Response(serializers.PreviewSerializer(previews.of_waiting(_find(request, name))).data)


class EventsView(generics.ListAPIView[DeploymentEvent]):
    """Every move of the deployment and its replicas, newest first."""

    scope = "deployments"
    serializer_class = serializers.EventSerializer
    queryset = DeploymentEvent.objects.none()
    filter_backends: list[Any] = []

    def get_queryset(self) -> Any:
        return _find(self.request, self.kwargs["name"]).events.select_related("node")


class MetricsView(generics.ListAPIView[DeploymentMetric]):
    """One row per minute with requests in it, newest first."""

    scope = "deployments"
    serializer_class = serializers.MetricSerializer
    queryset = DeploymentMetric.objects.none()
    filter_backends: list[Any] = []

    def get_queryset(self) -> Any:
        return _find(self.request, self.kwargs["name"]).metrics.all()


class LogsView(APIView):
    scope = "deployments"

    @extend_schema(
        parameters=[
            OpenApiParameter("lines", int, description=f"How many, at most {MOST_LINES}; 200 if left out."),
            OpenApiParameter("after", str, description="The id of the last line you have: gives those after it."),
        ],
        responses=serializers.LogsSerializer,
    )
    def get(self, request: Request, name: str) -> Response:
        """What the runners printed, those of failed attempts as well."""
        deployment = _find(request, name)
        asked = request.query_params.get("lines", "200")
        if not asked.isdecimal() or not 1 <= int(asked) <= MOST_LINES:
            raise BadRequest(f"lines must be a number from 1 to {MOST_LINES}, not {asked!r}.")
        after = request.query_params.get("after", "")
        if after and not after.replace("-", "", 1).isdecimal():
            raise BadRequest(f"after must be the id of a line, as 1700000000000-0, not {after!r}.")
        lines = logs.read(deployment, most=int(asked), after=after)
        return Response(serializers.LogsSerializer({"lines": lines}).data)


def _is_dry_run(request: Request) -> bool:
    asked = request.query_params.get("dry_run", "false")
    if asked not in ("true", "false"):
        raise BadRequest(f"dry_run must be true or false, not {asked[:40]!r}.")
    return asked == "true"


def _visible(request: Request) -> OwnedQuerySet:
    deployments = Deployment.objects.visible_to(request.user)
    return deployments.select_related("version__model").prefetch_related("replicas__node", "replicas__device")


def _find(request: Request, name: str) -> Deployment:
    mine = Deployment.objects.visible_to(request.user).select_related("version__model", "owner")
    found: Deployment = get_object_or_404(mine, name=name)
    return found


def _shown(request: Request, name: str) -> Any:
    return serializers.DeploymentSerializer(get_object_or_404(_visible(request), name=name)).data
