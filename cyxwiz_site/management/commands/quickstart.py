"""python manage.py quickstart: everything on this machine, until Ctrl-C."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand

from cyxwiz_site.quickstart.home import Refused, default_home
from cyxwiz_site.quickstart.run import Options, run


class Command(BaseCommand):
    help = "Starts a whole CyxWiz on this machine, shows a model answering, and stays until Ctrl-C."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--home", type=Path, default=default_home(), metavar="DIR", help="where the data is (default: %(default)s)"
        )
        parser.add_argument("--port", type=int, default=8080, metavar="N", help="of web and gateway (default: 8080)")
        parser.add_argument(
            "--ssh-port", type=int, default=0, metavar="N", help="of terminals by ssh (default: a free one)"
        )
        parser.add_argument("--nodes", type=int, default=1, metavar="N", help="local nodes to run (default: 1)")
        parser.add_argument("--no-demo", action="store_true", help="only start everything")
        parser.add_argument("--exit", action="store_true", help="end when all is shown, instead of staying")

    def handle(self, *args: Any, **given: Any) -> None:
        options = Options(
            home=given["home"],
            port=given["port"],
            ssh_port=given["ssh_port"],
            nodes=given["nodes"],
            demo=not given["no_demo"],
            stay=not given["exit"],
        )
        try:
            sys.exit(run(options))
        except Refused as refused:
            self.stderr.write(str(refused))
            sys.exit(1)
