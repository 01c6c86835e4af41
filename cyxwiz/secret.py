"""An API key in memory, which shows itself only on request: not in reprs, error messages or tracebacks."""

from __future__ import annotations

import re

from cyxwiz.errors import NotConfigured

VISIBLE = re.compile(r"[\x21-\x7e]+")


class ApiKey:
    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        text = text.strip()
        # Checked here because the HTTP library would quote the header, and so the key, in its error.
        if not VISIBLE.fullmatch(text):
            raise NotConfigured("The API key is empty or has characters that no key has. Copy it again.")
        self._text = text

    def reveal(self) -> str:
        return self._text

    @property
    def hint(self) -> str:
        """Enough to tell which key it is: keys look like cyx_<id>_<secret>, and the id is no secret."""
        parts = self._text.split("_")
        return f"{parts[0]}_{parts[1]}_…" if len(parts) == 3 else "…"

    def __repr__(self) -> str:
        return f"<ApiKey {self.hint}>"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ApiKey) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)
