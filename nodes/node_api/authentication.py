"""`Authorization: Bearer cyxn_…` on the node API: whoever carries it speaks for that node and no other."""

from __future__ import annotations

from hmac import compare_digest

from django.db.models import Q
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from accounts.models import User
from nodes.models import Node
from protocol import credentials


class NodeAuthentication(BaseAuthentication):
    """Puts the Node into `request.auth`, its owner into `request.user`."""

    def authenticate(self, request: Request) -> tuple[User, Node]:
        text = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        node = find_node(text)
        if node is None:
            raise unknown_node()
        return node.owner, node

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="cyxwiz-node"'


class IsNode(BasePermission):
    def has_permission(self, request: Request, view: object) -> bool:
        return isinstance(request.auth, Node)


def unknown_node() -> AuthenticationFailed:
    return AuthenticationFailed("This node token is not valid. If the node was removed, join it again.")


def find_node(token: str) -> Node | None:
    """Whose token it is."""
    credential = credentials.parse(token, credentials.NODE_TOKEN)
    return _find(credential) if credential else None


def _find(credential: credentials.Credential) -> Node | None:
    by_id = Q(token_id=credential.id) | Q(previous_token_id=credential.id)
    node = Node.objects.select_related("owner").prefetch_related("devices").filter(by_id).first()
    if node is None:
        return None
    if node.token_id == credential.id:
        if not compare_digest(node.token_digest, credential.digest):
            return None
        if node.previous_token_id:  # it has the new token, so the old one ends here
            Node.objects.filter(pk=node.pk).update(previous_token_id="", previous_token_digest="")
            node.previous_token_id = ""
        return node
    return node if compare_digest(node.previous_token_digest, credential.digest) else None
