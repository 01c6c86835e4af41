"""What other apps' pages show of terminals."""

from __future__ import annotations

from django import template
from django.urls import reverse

from accounts.models import User
from nodes.models import Node
from terminal import permissions

register = template.Library()


@register.simple_tag
def terminal_address(node: Node, user: User) -> str:
    """Of the page on which `user` opens a terminal on `node`; empty if they may not."""
    return reverse("terminal-ask", args=[node.name]) if permissions.may_open(node, user) else ""
