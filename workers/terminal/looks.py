"""Looks at ssh servers: a JSON list of Look on standard input, a line of JSON (Seen) on standard output for each, as
soon as it is known. A process of its own, so that what strangers' servers say is read where there are no secrets.

    python -P -m workers.terminal.looks
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec

from protocol.terminal_orders import Look, Seen
from workers.terminal import ssh_client

AT_ONCE = 32

_writing = threading.Lock()


def main() -> None:
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # what it has to say is in our answers
    looks = msgspec.json.decode(sys.stdin.buffer.read(), type=list[Look])
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(_tell, looks))
    os._exit(0)


def _tell(look: Look) -> None:
    line = msgspec.json.encode(see(look)) + b"\n"
    with _writing, contextlib.suppress(BrokenPipeError):  # nobody wants to know any more
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()


def see(look: Look) -> Seen:
    target = look.target
    try:
        if not target.host_key:
            return Seen(look.id, "ok", offered=ssh_client.offered(target.host, target.port))
        ssh_client.connect(target).close()
    except ssh_client.KeyChanged as error:
        return Seen(look.id, "changed_key", str(error), [error.offered])
    except ssh_client.Refused as error:
        return Seen(look.id, "refused", str(error))
    except ssh_client.NoWayIn as error:
        return Seen(look.id, "down", str(error))
    return Seen(look.id, "ok")


if __name__ == "__main__":
    main()
