"""What stands before the @: `<user>+<node>`. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Of a user what Django allows, in ASCII; of a node what `nodes.joining` does. No comma, no %, no space: other programs
# give those a meaning. A node's name has no +, so the last one parts them.
LOGIN = re.compile(r"(?P<user>[A-Za-z0-9_.@+-]{1,150})\+(?P<node>[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?)")


@dataclass(frozen=True)
class Login:
    user: str
    node: str


def parse(text: str) -> Login | None:
    found = LOGIN.fullmatch(text)
    return Login(found["user"], found["node"]) if found else None
