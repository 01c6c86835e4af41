"""`python template_process.py`: renders chat templates, which are programs by whoever made the
model, for the runner that started it. It can be ended when one loops, and its memory is bounded.

Says that it is ready, reads a template, then variables again and again: each of these, and each answer, is one line of
JSON.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY_BYTES = 512 * 1024**2
MOST_CHARACTERS = 8 * 1024**2


class Refused(Exception):
    """By the template itself."""


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    print("{}", flush=True)  # ready
    render = None
    for line in sys.stdin:
        try:
            told = json.loads(line)
            if render is None:
                render = prepare(told["template"])
                answer = {}
            else:
                answer = {"text": render(told)}
        except Refused as error:
            answer = {"refused": str(error)[:1000]}
        except MemoryError:
            answer = {"failed": "it needs too much memory"}
        except (TemplateError, RecursionError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            answer = {"failed": f"{type(error).__name__}: {error}"[:1000]}
        print(json.dumps(answer), flush=True)


def prepare(source: str) -> Callable[[dict[str, Any]], str]:
    """The settings, names and filters are those that authors of chat templates count on."""
    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"], autoescape=False
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
    return "".join(text)


def as_json(value: Any, indent: int | None = None, **more: Any) -> str:
    """Jinja's own would escape what is special in HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent, **more)


def refuse(words: str) -> NoReturn:
    raise Refused(words)


if __name__ == "__main__":
    main()
