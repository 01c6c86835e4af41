"""The table of attacks in docs/security.md is the list in tests/attacks.py, and each of its tests is there."""

import ast
from pathlib import Path

import pytest

from tests import attacks

PROJECT = Path(__file__).resolve().parents[2]
ALL = [attack for group in attacks.GROUPS for attack in group.attacks]


def test_the_documented_table_is_the_list() -> None:
    text = (PROJECT / "docs" / "security.md").read_text()
    assert attacks.table() in text, "Put what `python -m tests.attacks` prints into docs/security.md."


@pytest.mark.parametrize("file", sorted({attack.test.partition("::")[0] for attack in ALL}))
def test_each_attack_is_tried(file: str) -> None:
    tree = ast.parse((PROJECT / file).read_text())
    there = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    named = {attack.test.partition("::")[2] for attack in ALL if attack.test.startswith(f"{file}::")}
    assert named <= there
