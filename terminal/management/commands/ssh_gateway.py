"""Runs the ssh gateway: terminals by `ssh -p 2222 <user>+<node>@host`, for who has registered a public key."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from protocol import ssh
from terminal.ssh_gateway import host_key
from terminal.ssh_gateway.gateway import BACKLOG, Gateway


class Command(BaseCommand):
    help = __doc__

    def handle(self, *args: Any, **options: Any) -> None:
        address, port = settings.SSH_GATEWAY_ADDRESS, settings.SSH_GATEWAY_PORT
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            listener = socket.create_server((address, port), family=family, backlog=BACKLOG)
        except OSError as error:
            raise CommandError(f"SSH_GATEWAY_ADDRESS {address}, SSH_GATEWAY_PORT {port}: {error.strerror}.") from error
        public = host_key.ensure()
        # It tells of every banner that did not come, with a traceback. What matters we say ourselves.
        logging.getLogger("paramiko").setLevel(logging.CRITICAL)
        self.stdout.write(f"The ssh gateway listens on {address}, port {port}.")
        self.stdout.write(f"Its host key: {ssh.fingerprint(public)}")
        self.stdout.write(public)
        self.stdout.flush()
        asyncio.run(Gateway().run(listener))
