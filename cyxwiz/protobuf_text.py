"""Reads protobuf's text format, as far as configuration files use it: into a dict of lists, for a reader without the
schema cannot know which fields are repeated.

https://protobuf.dev/reference/protobuf/textformat-spec/; not read are extensions and Any.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Union

from cyxwiz.errors import BadInput

LIMIT_BYTES = 1024**2
DEPTH_LIMIT = 32

Value = Union[str, int, float, bool, "Message"]  # an enum's value is its name
Message = dict[str, list[Value]]

TOKEN = re.compile(
    r"""\s+ | \#[^\n]*
    | (?P<text> "(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*' )
    | (?P<name> [A-Za-z_][A-Za-z0-9_]* )
    | (?P<number> [-+]? (?: 0[xX][0-9a-fA-F]+ | (?:[0-9]+\.?[0-9]*|\.[0-9]+) (?:[eE][-+]?[0-9]+)? [fF]? ) (?![\w.]) )
    | (?P<sign> [{}<>\[\]:,;] )""",
    re.VERBOSE,
)
CLOSING = {"{": "}", "<": ">"}
ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}

Token = tuple[str, str]  # kind, text
END: Token = ("end", "its end")


def read(text: str) -> Message:
    """Raises BadInput that says where it is not what it should be."""
    if len(text) > LIMIT_BYTES:
        raise BadInput(f"It has more than {LIMIT_BYTES:,} characters.")
    return _Reader(text).message(END[1], 0)


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._tokens = self._all()
        self._next = next(self._tokens, END)

    def message(self, closing: str, depth: int) -> Message:
        if depth > DEPTH_LIMIT:
            raise self._wrong(f"is nested more than {DEPTH_LIMIT} deep")
        found: Message = {}
        while self._next[1] != closing or self._next[0] == "text":
            kind, name = self._take()
            if kind != "name":
                raise self._wrong(f"has {name[:40]} where the name of a field should be")
            values = found.setdefault(name, [])
            has_colon = self._took(":")
            if self._next[1] in CLOSING and self._next[0] == "sign":
                values.append(self.message(CLOSING[self._take()[1]], depth + 1))
            elif self._took("["):
                values.extend(self._list(depth))
            elif has_colon:
                values.append(self._scalar())
            else:
                raise self._wrong(f"has no value for {name[:40]}")
            self._took(",") or self._took(";")
        self._take()
        return found

    def _list(self, depth: int) -> Iterator[Value]:
        while not self._took("]"):
            if self._next[1] in CLOSING and self._next[0] == "sign":
                yield self.message(CLOSING[self._take()[1]], depth + 1)
            else:
                yield self._scalar()
            self._took(",")

    def _scalar(self) -> Value:
        kind, text = self._take()
        if kind == "text":
            parts = [text]
            while self._next[0] == "text":
                parts.append(self._take()[1])
            return "".join(
                re.sub(r"\\(.)", lambda found: ESCAPED.get(found[1], found[1]), part[1:-1]) for part in parts
            )
        if kind == "name":
            return {"true": True, "false": False}.get(text, text)
        if kind == "number":
            for convert in (lambda: int(text, 0), lambda: float(text.rstrip("fF"))):
                try:
                    return convert()
                except ValueError:
                    pass
        raise self._wrong(f"has {text[:40]} where a value should be")

    def _took(self, sign: str) -> bool:
        if self._next != ("sign", sign):
            return False
        self._take()
        return True

    def _take(self) -> Token:
        taken = self._next
        self._next = next(self._tokens, END)
        return taken

    def _all(self) -> Iterator[Token]:
        while self._at < len(self._text):
            found = TOKEN.match(self._text, self._at)
            if found is None:
                raise self._wrong(f"has {self._text[self._at]!r}, which means nothing there")
            self._at = found.end()
            if found.lastgroup:
                yield found.lastgroup, found[0]

    def _wrong(self, what: str) -> BadInput:
        line = self._text.count("\n", 0, self._at) + 1
        return BadInput(f"It {what}, at line {line}.")
