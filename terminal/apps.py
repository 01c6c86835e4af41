from typing import Any

from django.apps import AppConfig
from django.contrib.auth.signals import user_logged_out
from django.db.models.signals import post_delete, post_save, pre_delete


class TerminalConfig(AppConfig):
    name = "terminal"

    def ready(self) -> None:
        from accounts import permissions
        from accounts.models import ApiKey, SshKey, User
        from nodes import signals
        from nodes.models import Node
        from terminal import doors, refusals, reports, services, ssh_keys
        from terminal.models import SshNode, TerminalGrant, TerminalSession
        from terminal.permissions import NODE_REMOVED, USER_REMOVED
        from terminal.states import UNENDED

        def heartbeat(node: Any, heartbeat: Any, **_: object) -> dict[str, object]:
            return {"terminals": reports.renew(node, heartbeat)}

        def rights_changed(instance: Any, created: bool = False, **_: object) -> None:
            """Of a user, by a grant, a key or the row itself. What no signal tells (a bulk update) the sweep sees."""
            if created and not isinstance(instance, TerminalGrant):
                return
            user = instance if isinstance(instance, User) else getattr(instance, "user", None) or instance.owner
            services.end_unauthorised(user=user)
            doors.rights_changed(user.pk)

        def logged_out(request: Any, user: Any, **_: object) -> None:
            """Django ends the browser's session only after this signal. It is gone before the websockets look."""
            if user is not None:
                request.session.delete()
                doors.rights_changed(user.pk)

        def end_all(why: str, **which: Any) -> None:
            for session in TerminalSession.objects.filter(state__in=UNENDED, **which).select_related("node"):
                services.end(session, why)

        def user_goes(instance: Any, **_: object) -> None:
            end_all(USER_REMOVED, owner=instance)

        def node_goes(instance: Any, **_: object) -> None:
            end_all(NODE_REMOVED, node=instance)

        def scope_lacked(key: Any, scope: str, message: str, **_: object) -> None:
            if scope.startswith("terminal:"):
                refusals.refused(message, key.owner, key=key.key_id)

        def ssh_node_gone(instance: Any, **_: object) -> None:
            ssh_keys.forget(instance.pk)

        permissions.scope_lacked.connect(scope_lacked, weak=False)
        user_logged_out.connect(logged_out, weak=False)
        signals.heartbeat_received.connect(heartbeat, weak=False)
        for model in (User, ApiKey, TerminalGrant):
            post_save.connect(rights_changed, sender=model, weak=False)
        for ended in (TerminalGrant, SshKey):
            post_delete.connect(rights_changed, sender=ended, weak=False)
        pre_delete.connect(user_goes, sender=User, weak=False)
        pre_delete.connect(node_goes, sender=Node, weak=False)
        post_delete.connect(ssh_node_gone, sender=SshNode, weak=False)
