from typing import Any

from django.apps import AppConfig


class JobsConfig(AppConfig):
    name = "jobs"

    def ready(self) -> None:
        from jobs import leases, queueing
        from nodes import signals

        def heartbeat(node: Any, heartbeat: Any, **_: object) -> dict[str, object]:
            return {"jobs": leases.renew(node, heartbeat)}

        def lost(node: Any, **_: object) -> None:
            leases.node_lost(node)

        def holders(user: Any, holders: Any, **_: object) -> object:
            return queueing.stoppable(user, holders)

        def held(node: Any, **_: object) -> object:
            return queueing.held_on(node)

        def goes(node: Any, **_: object) -> None:
            leases.lock_rows_of(node)

        signals.node_goes.connect(goes, weak=False)
        signals.held_wanted.connect(held, weak=False)
        signals.holders_wanted.connect(holders, weak=False)
        signals.heartbeat_received.connect(heartbeat, weak=False)
        signals.node_lost.connect(lost, weak=False)
