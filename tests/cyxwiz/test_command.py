"""The command itself: its help, what it loads, its exit codes, and that what it prints is for people and pipes."""

from __future__ import annotations

import ast
import os
import pty
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import cyxwiz as package
from cyxwiz.cli import output
from cyxwiz.cli.exit_codes import ExitCode, exit_code
from cyxwiz.errors import BadInput, CyxwizApiError, JobFailed, NotConfigured, TimedOut, Unreachable

ROOT = Path(package.__file__).parents[1]
HEAVY = ("httpx2", "numpy", "rich", "msgspec", "ssl", "asyncio", "platformdirs")
COMMANDS = [
    *("login", "deploy", "ps", "wait", "logs", "events", "stop", "start", "restart", "scale", "rm", "predict"),
    *("models push", "models import", "models ls", "models show"),
    *("jobs run", "jobs ls", "jobs show", "jobs result", "jobs cancel"),
    *("nodes ls", "nodes show", "nodes benchmark", "nodes set", "nodes token", "nodes ssh", "nodes exec"),
    *("ssh-keys add", "ssh-keys ls", "ssh-keys rm", "ssh-keys known-hosts"),
]
NOT_OURS = {"nodes ssh", "nodes exec"}  # what they print is what runs on the node


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(cyxwiz, command):
    done = cyxwiz(*command.split(), "--help")
    assert (done.code, done.err) == (0, "")
    assert f"Example: cyxwiz {command}" in done.out
    assert ("--json" in done.out) == (command not in NOT_OURS)


def test_the_list_above_is_complete(cyxwiz):
    def listed(*group: str) -> set[str]:
        lines = cyxwiz(*group, "--help").out.partition("Commands:\n")[2].splitlines()
        return {line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "}

    groups = {"models", "jobs", "nodes", "ssh-keys"}
    found = (listed() - groups) | {f"{group} {command}" for group in groups for command in listed(group)}
    assert found == set(COMMANDS)


@pytest.mark.parametrize("arguments", [["--help"], ["deploy", "--help"], ["--version"], ["models", "push", "--help"]])
def test_help_waits_for_nothing_heavy(arguments):
    code = f"""
import sys
from cyxwiz.cli.main import main
sys.argv = ["cyxwiz", *{arguments!r}]
try:
    main()
except SystemExit as end:
    assert not end.code
print(sorted(name for name in {HEAVY!r} if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]"


def test_no_boxes_and_no_colours_in_help():
    environment = {**os.environ, "FORCE_COLOR": "1", "TERMINAL_WIDTH": "80"}
    command = [sys.executable, "-m", "cyxwiz.cli.main", "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert not set("╭│╰\x1b") & set(done.stdout)


@pytest.mark.parametrize("colour", [True, False])
def test_a_terminal_gets_colours_unless_it_wants_none(colour):
    """`running` in green, in a real terminal; NO_COLOR turns that off."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color"} | ({} if colour else {"NO_COLOR": "1"})
    code = "from cyxwiz.cli.output import table; table(('STATE',), [('running',), ('\\x1b[2J[bold]',)])"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=theirs, cwd=ROOT, env=environment)
    os.close(theirs)
    shown = os.read(ours, 4096).decode()
    os.close(ours)
    assert ("\x1b[32mrunning" in shown) is colour
    assert "\\x1b[2J[bold]" in shown


def test_a_closed_pipe_is_no_accident(tmp_path):
    code = "from cyxwiz.cli.main import main; import sys; sys.argv = ['cyxwiz', '--help']; main()"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], check=False, stdout=writer, stderr=subprocess.PIPE, cwd=ROOT)
    os.close(writer)
    assert b"Traceback" not in done.stderr


def test_the_first_line_of_help_for_the_lost(cyxwiz):
    bare = cyxwiz()
    assert bare.code == 2
    assert "Usage: cyxwiz" in bare.err
    assert cyxwiz("--version").out == f"cyxwiz {package.__version__}\n"


def test_the_version_is_that_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == package.__version__


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CyxwizApiError(status=401, code="", detail=""), ExitCode.AUTH),
        (CyxwizApiError(status=403, code="", detail=""), ExitCode.AUTH),
        (CyxwizApiError(status=404, code="", detail=""), ExitCode.NOT_FOUND),
        (CyxwizApiError(status=409, code="", detail=""), ExitCode.CONFLICT),
        (CyxwizApiError(status=422, code="", detail=""), ExitCode.ERROR),
        (CyxwizApiError(status=429, code="", detail=""), ExitCode.NO_CAPACITY),
        (CyxwizApiError(status=503, code="", detail=""), ExitCode.NO_CAPACITY),
        (CyxwizApiError(status=504, code="", detail=""), ExitCode.TIMEOUT),
        (NotConfigured(""), ExitCode.AUTH),
        (BadInput(""), ExitCode.USAGE),
        (JobFailed(""), ExitCode.ERROR),
        (TimedOut(""), ExitCode.TIMEOUT),
        (TimedOut("", for_room=True), ExitCode.NO_CAPACITY),
        (Unreachable(""), ExitCode.ERROR),
        (Unreachable("", slow=True), ExitCode.TIMEOUT),
    ],
)
def test_exit_codes(error, code):
    assert exit_code(error) is code


def test_what_people_read():
    assert [output.size(count) for count in (None, 0, 1023, 1024, 5 * 1024**3)] == [
        "unknown",
        "0 B",
        "1023 B",
        "1.0 KiB",
        "5.0 GiB",
    ]
    assert output.age(None) == "never"
    assert output.age("2000-01-01T00:00:00Z").endswith("d")
    assert output.numbers([[0.123456, 2], [b"a", True]]) == "[[0.1235, 2], ['a', True]]"
    assert len(output.numbers(list(range(1000)))) == 100
    assert output.printable("a\x1b[2J\tb\r\n\x9b") == "a\\x1b[2J\tb\\r\n\\x9b"
    key = f"cyx_{'a' * 12}_{'b' * 64}"
    assert output.without_keys(f"Bearer {key}!") == "Bearer cyx_aaaaaaaaaaaa_…!"


def test_the_client_imports_nothing_else_of_ours():
    own = {"protocol", "workers", "accounts", "nodes", "models_registry", "deployments", "jobs", "gateway", "django"}
    for path in (ROOT / "cyxwiz").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & own, path
