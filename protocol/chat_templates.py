"""Chat templates, which are programs by whoever made the model: how they are compiled and rendered. The control plane
compiles one when a model is uploaded, a runner renders it.

Even compiling computes a template's constants, so neither is for a process that has other work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY_BYTES = 512 * 1024**2
MOST_CHARACTERS = 8 * 1024**2


class Refused(Exception):
    """By the template itself."""


class Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks for training what the model says; here it says nothing."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def prepare(source: str) -> Callable[[dict[str, Any]], str]:
    """The settings, names and filters are those that authors of chat templates count on. Raises, as the function does,
    whatever the template raises, which may be anything."""
    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation], autoescape=False
    )
    sandbox.filters["tojson"] = as_json
    sandbox.globals["raise_exception"] = refuse
    sandbox.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    template = sandbox.from_string(source)
    return lambda variables: joined(template.generate(variables))


def joined(pieces: Iterable[str]) -> str:
    text: list[str] = []
    length = 0
    for piece in pieces:
        text.append(piece)
        length += len(piece)
        if length > MOST_CHARACTERS:
            raise ValueError(f"it makes more than {MOST_CHARACTERS:,} characters")
    whole = "".join(text)
    if any("\ud800" <= character <= "\udfff" for character in set(whole)):
        raise ValueError("it makes half a character (a lone surrogate)")
    return whole


def as_json(value: Any, indent: int | None = None, **more: Any) -> str:
    """Jinja's own would escape what is special in HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent, **more)


def refuse(words: str) -> NoReturn:
    raise Refused(words)


def told(fault: Exception) -> str:
    if isinstance(fault, MemoryError):
        return "it needs too much memory"
    return f"{type(fault).__name__}: {fault}"[:1000]
