"""What `ssh` needs for terminals on the local nodes: a key registered with the admin's account, and a file of settings,
so that `ssh -F HOME/ssh/config local-1` is all that has to be typed."""

from __future__ import annotations

import contextlib
import socket
import time

import httpx2

from cyxwiz_site.quickstart.home import Home, Refused, write_private
from cyxwiz_site.quickstart.local_nodes import expect
from cyxwiz_site.quickstart.processes import POLL_SECONDS, Processes
from terminal import ssh_keys

READY_SECONDS = 30.0
_CONFIG = """\
Host {node}
    HostName 127.0.0.1
    Port {port}
    User {user}+{node}
    IdentityFile "{folder}/id_ed25519"
    IdentitiesOnly yes
    UserKnownHostsFile "{folder}/known_hosts"
"""


def prepare(home: Home, api: httpx2.Client, user: str, port: int, nodes: list[str], processes: Processes) -> None:
    """Returns when the gateway takes connections."""
    folder = home.ssh
    folder.mkdir(mode=0o700, exist_ok=True)
    expect(api.post("/api/v1/ssh-keys/", json={"public_key": _public_key(home), "name": "quickstart"}), 201, 409)
    _wait_for(port, processes)
    host_key = expect(api.get("/api/v1/terminal/ssh-gateway"), 200).json()["host_key"]
    write_private(folder / "known_hosts", f"[127.0.0.1]:{port} {host_key}\n".encode())
    blocks = [_CONFIG.format(node=node, port=port, user=user, folder=folder) for node in nodes]
    write_private(folder / "config", "\n".join(blocks).encode())


def _public_key(home: Home) -> str:
    file = home.ssh / "id_ed25519"
    with contextlib.suppress(FileExistsError):
        ssh_keys.new_private(file)
    return ssh_keys.public_line(file)


def _wait_for(port: int, processes: Processes) -> None:
    give_up = time.monotonic() + READY_SECONDS
    while True:
        processes.check()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if time.monotonic() > give_up:
            raise Refused(f"The ssh gateway did not listen within {READY_SECONDS:.0f} s. See its log.")
        time.sleep(POLL_SECONDS)
