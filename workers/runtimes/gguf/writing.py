"""From tokens to the text that may be sent: whole characters only, and nothing that a stop string will take back."""

from __future__ import annotations

import codecs


class Writing:
    """The text of one answer while it grows."""

    def __init__(self, stops: list[str]) -> None:
        self._stops = stops
        self._longest = max(map(len, stops), default=0)
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._held = ""
        self.is_stopped = False

    def add(self, piece: bytes) -> str:
        """What may be sent now. A character whose bytes are not all there waits, and so does what may be the beginning
        of a stop string."""
        text = self._decode(piece)
        if not self._stops:
            return text
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.is_stopped = True
            text, self._held = self._held[: min(places)], ""
            return text
        safe = self._safe()
        text, self._held = self._held[:safe], self._held[safe:]
        return text

    def end(self) -> str:
        """What was held back for something that did not come."""
        text, self._held = self._held + self._decode(b"", True), ""
        return "" if self.is_stopped else text

    def _safe(self) -> int:
        held = self._held
        for start in range(max(0, len(held) - self._longest + 1), len(held)):
            rest = held[start:]
            if any(stop.startswith(rest) for stop in self._stops):
                return start
        return len(held)
