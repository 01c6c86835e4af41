from typing import Any

from django.apps import AppConfig


class DeploymentsConfig(AppConfig):
    name = "deployments"

    def ready(self) -> None:
        from deployments import previews, reconcile, reports
        from nodes import signals

        def heartbeat(node: Any, heartbeat: Any, **_: object) -> object:
            return reports.receive(node, heartbeat)

        def offline(node: Any, **_: object) -> None:
            reconcile.node_offline(node)

        def lost(node: Any, **_: object) -> None:
            reconcile.node_lost(node)

        def holders(user: Any, holders: Any, **_: object) -> object:
            return previews.stoppable(user, holders)

        def held(node: Any, **_: object) -> object:
            return previews.held_on(node)

        def goes(node: Any, **_: object) -> None:
            reconcile.lock_rows_of(node)

        signals.node_goes.connect(goes, weak=False)
        signals.held_wanted.connect(held, weak=False)
        signals.holders_wanted.connect(holders, weak=False)
        signals.heartbeat_received.connect(heartbeat, weak=False)
        signals.node_offline.connect(offline, weak=False)
        signals.node_lost.connect(lost, weak=False)
