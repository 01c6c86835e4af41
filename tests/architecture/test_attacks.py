"""The tables of attacks in the docs are the lists of the tests, and each test that they name is there."""

import ast
from pathlib import Path

import pytest

from tests import attacks, terminal_attacks

PROJECT = Path(__file__).resolve().parents[2]
ALL = [attack for group in (*attacks.GROUPS, *terminal_attacks.GROUPS) for attack in group.attacks]


@pytest.mark.parametrize(
    ("page", "groups", "printed_by"),
    [
        ("security.md", attacks.GROUPS, "tests.attacks"),
        ("terminal.md", terminal_attacks.GROUPS, "tests.terminal_attacks"),
    ],
)
def test_the_documented_table_is_the_list(page: str, groups: tuple[attacks.Group, ...], printed_by: str) -> None:
    text = (PROJECT / "docs" / page).read_text()
    assert attacks.table(groups) in text, f"Put what `python -m {printed_by}` prints into docs/{page}."


@pytest.mark.parametrize("file", sorted({attack.test.partition("::")[0] for attack in ALL}))
def test_each_attack_is_tried(file: str) -> None:
    tree = ast.parse((PROJECT / file).read_text())
    there = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    named = {attack.test.partition("::")[2] for attack in ALL if attack.test.startswith(f"{file}::")}
    assert named <= there
