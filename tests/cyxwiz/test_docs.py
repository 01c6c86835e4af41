"""docs/cli.md: every command in it exists with these options, and no command is missing from it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from cyxwiz.cli.main import app
from tests.cyxwiz.test_command import COMMANDS

TEXT = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines() if line.startswith("cyxwiz ")]


def words(line: str) -> list[str]:
    return shlex.split(re.split(r" (?:[|<#]|>>) ?", line)[0])[1:]


@pytest.mark.parametrize("line", LINES)
def test_the_command_line_is_understood(line):
    command, arguments = typer.main.get_command(app), words(line)
    while subcommands := getattr(command, "commands", None):
        command = subcommands[arguments.pop(0)]
    command.make_context(
        "cyxwiz", arguments, resilient_parsing=any(word in line for word in ("@", "push", "import", "--dataset"))
    )


def test_every_command_is_shown():
    shown = {" ".join(words(line)) for line in LINES}
    assert not [command for command in COMMANDS if not any(line.startswith(command) for line in shown)]


def test_the_python_example_is_python():
    [example] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    compile(example, "docs/cli.md", "exec")
