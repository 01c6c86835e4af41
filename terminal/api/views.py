"""/api/v1/terminal/"""

from __future__ import annotations

from uuid import UUID

from django.conf import settings
from django.http import Http404, HttpResponseBase
from django.shortcuts import get_object_or_404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import generics
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.models import ApiKey, User
from nodes.models import Node
from protocol import ssh
from protocol.errors import NotFound
from terminal import finding, permissions, recordings, refusals, services
from terminal.api import serializers
from terminal.models import SessionQuerySet, TerminalSession
from terminal.ssh_gateway import host_key
from terminal.states import SessionState


class SessionsView(generics.ListAPIView[TerminalSession]):
    """Your own sessions, and those that you may watch."""

    scope = "terminal"
    serializer_class = serializers.SessionSerializer
    queryset = TerminalSession.objects.none()
    filterset_fields = ["state", "node_name"]

    def get_queryset(self) -> SessionQuerySet:
        return finding.visible_sessions(caller(self.request))

    @extend_schema(request=serializers.NewSessionSerializer, responses={201: serializers.SessionWithTicketSerializer})
    def post(self, request: Request) -> Response:
        """Ask for a terminal on a node. The answer has a ticket for the websocket."""
        wanted = serializers.NewSessionSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        fields = dict(wanted.validated_data)
        user = caller(request)
        name = fields.pop("node")
        try:
            node = finding.node(user, name)
        except Http404:
            raise NotFound(f"You know no node {name!r}.") from None
        key = request.auth if isinstance(request.auth, ApiKey) else None
        session = services.open_session(node=node, user=user, api_key=key, **fields)
        ticket = None if session.state == SessionState.UNAPPROVED else services.new_ticket(session, user)[0]
        answer = serializers.SessionSerializer(session).data | {"ticket": ticket, "websocket": _websocket(session)}
        return Response(answer, status=201)


class SessionView(generics.RetrieveAPIView[TerminalSession]):
    scope = "terminal"
    serializer_class = serializers.SessionSerializer
    queryset = TerminalSession.objects.none()

    def get_object(self) -> TerminalSession:
        return _find(self.request, self.kwargs["id"])


class TicketsView(APIView):
    scope = "terminal"

    @extend_schema(request=None, responses={201: serializers.TicketSerializer})
    def post(self, request: Request, id: UUID) -> Response:
        """Another ticket: to come back to your own session, or to watch somebody else's."""
        session = _find(request, id)
        ticket, mode = services.new_ticket(session, caller(request))
        return Response({"ticket": ticket, "mode": mode, "websocket": _websocket(session)}, status=201)


class ApproveView(APIView):
    scope = "terminal"

    @extend_schema(request=None, responses=serializers.SessionSerializer)
    def post(self, request: Request, id: UUID) -> Response:
        """Agree to a terminal that somebody else asked for."""
        session = _find(request, id)
        services.approve(session, caller(request))
        return Response(serializers.SessionSerializer(session).data)


class EndView(APIView):
    scope = "terminal"

    @extend_schema(request=None, responses=serializers.SessionSerializer)
    def post(self, request: Request, id: UUID) -> Response:
        """End it and all its processes."""
        session = _find(request, id)
        services.end_for(session, caller(request))
        return Response(serializers.SessionSerializer(session).data)


class RecordingView(APIView):
    scope = "terminal"

    @extend_schema(responses={(200, "application/x-asciicast"): OpenApiTypes.BINARY})
    def get(self, request: Request, id: UUID) -> HttpResponseBase:
        """What was shown, as asciicast v3; of a session that goes on, what is recorded so far."""
        session = _find(request, id)
        user = caller(request)
        if not permissions.may_read_recording(session, user):
            why = "Only who opened a terminal and owners of the node read its recording."
            raise refusals.forbidden(why, user, session=session)
        return recordings.download(session, user, request.method)


class GrantsView(APIView):
    scope = "terminal"

    @extend_schema(responses=serializers.GrantSerializer(many=True))
    def get(self, request: Request, name: str) -> Response:
        """Who may do what with terminals on a node."""
        grants = managed_node(request, name).terminal_grants.select_related("user")
        return Response(serializers.GrantSerializer(grants, many=True).data)

    @extend_schema(request=serializers.GrantSerializer, responses=serializers.GrantSerializer)
    def post(self, request: Request, name: str) -> Response:
        """Give a user a role, in place of the one before."""
        node = managed_node(request, name)
        wanted = serializers.GrantSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        username = wanted.validated_data["user"]["username"]
        user = User.objects.filter(username=username, is_active=True).first()
        if user is None:
            raise NotFound(f"There is no user {username!r}.")
        row = services.grant(node=node, user=user, role=wanted.validated_data["role"], by=caller(request))
        return Response(serializers.GrantSerializer(row).data)


class GrantView(APIView):
    scope = "terminal"

    @extend_schema(responses={204: None})
    def delete(self, request: Request, name: str, username: str) -> Response:
        """Take the role away; the user's terminals there end."""
        row = get_object_or_404(
            managed_node(request, name).terminal_grants.select_related("user"), user__username=username
        )
        services.withdraw(row, by=caller(request))
        return Response(status=204)


class PolicyView(APIView):
    scope = "terminal"

    @extend_schema(responses=serializers.PolicySerializer)
    def get(self, request: Request, name: str) -> Response:
        """The rules for terminals on a node."""
        node = finding.node(caller(request), name)
        return Response(serializers.PolicySerializer(services.policy_of(node)).data)

    @extend_schema(request=serializers.PolicySerializer, responses=serializers.PolicySerializer)
    def patch(self, request: Request, name: str) -> Response:
        """Change them, for sessions to come."""
        node = managed_node(request, name)
        changed = serializers.PolicySerializer(services.policy_of(node), data=request.data, partial=True)
        changed.is_valid(raise_exception=True)
        services.set_policy(node=node, by=caller(request), **changed.validated_data)
        return Response(serializers.PolicySerializer(services.policy_of(node)).data)


class SshGatewayView(APIView):
    scope = "terminal"

    @extend_schema(responses=serializers.SshGatewaySerializer)
    def get(self, request: Request) -> Response:
        """Its port, and its host key to compare with what ssh shows."""
        line = host_key.public_line()
        if line is None:
            raise NotFound("No ssh gateway was ever started here: manage.py ssh_gateway.")
        answer = {"port": settings.SSH_GATEWAY_PORT, "host_key": line, "fingerprint": ssh.fingerprint(line)}
        return Response(answer)


def caller(request: Request) -> User:
    assert isinstance(request.user, User)
    return request.user


def _find(request: Request, id: UUID) -> TerminalSession:
    return finding.session(caller(request), id)


def managed_node(request: Request, name: str) -> Node:
    user = caller(request)
    node = finding.node(user, name)
    if not permissions.may_manage(node, user):
        raise refusals.forbidden(f"Only an owner of {name} manages terminals on it.", user, node=name)
    return node


def _websocket(session: TerminalSession) -> str:
    return f"/ws/terminal/{session.pk}/"
