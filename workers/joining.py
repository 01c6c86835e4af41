"""Makes this machine a node: spends a join token, keeps what comes for it."""

from __future__ import annotations

from urllib.parse import urlsplit

from protocol.messages import Registration
from workers.control_plane import ControlPlane
from workers.hardware import machine, watch
from workers.settings import BadSetting, Home, Identity


def join(home: Home, *, url: str, token: str, name: str | None, labels: dict[str, str], force: bool) -> Identity:
    """Either all of it, or nothing is left behind. (A token that was spent stays spent.)"""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.username:
        raise BadSetting(f"'{url}' is not the address of a control plane; it looks like https://cyxwiz.example.org")
    with home.ready_to_join(force=force):
        control_plane = ControlPlane(url)
        hardware = machine.facts(home.path)
        try:
            registered = control_plane.register(Registration(token=token, name=name, labels=labels, hardware=hardware))
        finally:
            control_plane.close()
        identity = Identity(
            node_id=registered.node_id,
            name=registered.name,
            url=url.rstrip("/"),
            token=registered.token,
            broker_url=registered.broker_url,
            queues=registered.queues,
        )
        home.write(identity)
        watch.remember(home, hardware)
    return identity
