"""The agent knows no Django and none of the libraries that run models; and it understands every doorbell."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from protocol import names

ROOT = Path(__file__).resolve().parents[2]


def run(program: str) -> str:
    told = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    return told.stdout


def test_it_runs_where_django_cannot_be_imported():
    """Blocked, not looked for: kombu imports Django by itself where it is installed, so sys.modules would lie."""
    run(
        """
        import importlib, pkgutil, sys

        class Block:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ("django", "rest_framework", "channels"):
                    raise ModuleNotFoundError(f"blocked: {name}", name=name)

        sys.meta_path.insert(0, Block())
        import workers
        for module in pkgutil.walk_packages(workers.__path__, "workers."):
            importlib.import_module(module.name)
        """
    )


def test_the_agent_imports_nothing_that_runs_models():
    run(
        """
        import sys
        import workers.agent, workers.tasks, workers.joining, workers.__main__
        from pathlib import Path
        from workers.hardware import machine
        from workers.runtimes import catalogue
        machine.facts(Path("/"))
        libraries = {name for entry in catalogue.RUNTIMES.values() for name in entry.libraries}
        heavy = {*libraries, "onnx", "numba", "pynvml", "pyopencl"} & set(sys.modules)
        assert not heavy, heavy
        """
    )


def test_the_node_understands_every_doorbell():
    registered = run(
        """
        from workers.app import app
        app.loader.import_default_modules()
        print("\\n".join(app.tasks))
        """
    ).split()
    assert set(names.NODE_TASKS) <= set(registered)
