"""What pages show of terminals."""

from __future__ import annotations

from django import template
from django.urls import reverse

from accounts.models import User
from nodes.models import Node
from terminal import permissions

register = template.Library()
UNITS = {"hour": 3600, "minute": 60, "second": 1}


@register.filter
def duration(seconds: int) -> str:
    """In the largest unit in which it is a whole number: 8 hours, 15 minutes, 90 seconds."""
    name, size = next((name, size) for name, size in UNITS.items() if seconds % size == 0)
    count = seconds // size
    return f"{count} {name}{'' if count == 1 else 's'}"


@register.simple_tag
def terminal_address(node: Node, user: User) -> str:
    """Of the page on which `user` opens a terminal on `node`; empty if they may not."""
    return reverse("terminal-ask", args=[node.name]) if permissions.may_open(node, user) else ""
