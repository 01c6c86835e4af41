"""`cyxwiz-node join`: all or nothing, and one clear line when it is nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.workers.node_api import JOIN_TOKEN, NODE_ID, NodeApi
from workers.__main__ import cli
from workers.settings import Home


def join(url: str, *more: str | Path, token: str | None = None) -> Result:
    environment = {"CYXWIZ_JOIN_TOKEN": token} if token else {"CYXWIZ_JOIN_TOKEN": None}
    return CliRunner().invoke(cli, ["join", url, *map(str, more)], env=environment)


def test_joining_keeps_what_came(node_api: NodeApi, tmp_path: Path):
    home = tmp_path / "new" / "home"
    told = join(
        node_api.url, "--home", home, "--token", JOIN_TOKEN, "--name", "box", "--label", "room=3", "--label", "a=b=c"
    )
    assert told.exit_code == 0, told.output
    assert f"Joined as box ({NODE_ID})" in told.output
    identity = Home(home).read()
    assert (identity.url, identity.token, identity.broker_url) == (node_api.url, node_api.token, node_api.broker_url)
    assert (home / "node.json").stat().st_mode & 0o777 == 0o600
    assert identity.token not in repr(identity)
    assert identity.broker_url not in repr(identity)
    registration = node_api.registrations[0]
    assert registration.labels == {"room": "3", "a": "b=c"}
    assert registration.hardware.devices[0].memory_total_bytes


def test_the_token_may_come_from_the_environment(node_api: NodeApi, tmp_path: Path):
    assert join(node_api.url, "--home", tmp_path, token=JOIN_TOKEN).exit_code == 0


def test_a_second_join_needs_force(node_api: NodeApi, tmp_path: Path):
    join(node_api.url, "--home", tmp_path, token=JOIN_TOKEN)
    before = (tmp_path / "node.json").read_bytes()
    second = join(node_api.url, "--home", tmp_path, "--name", "other", token=JOIN_TOKEN)
    assert second.exit_code == 1
    assert second.output.strip() == f"Error: {tmp_path} already holds node tester. Use --force to join anew."
    assert (tmp_path / "node.json").read_bytes() == before
    assert len(node_api.registrations) == 1  # and so no token was spent
    assert join(node_api.url, "--home", tmp_path, "--name", "other", "--force", token=JOIN_TOKEN).exit_code == 0
    assert Home(tmp_path).read().name == "other"


@pytest.mark.parametrize(
    ("url", "more", "token", "words"),
    [
        (None, [], "cyxj_wrong", "This join token is unknown, used or expired."),
        (None, [], None, "A join token is needed"),
        ("http://127.0.0.1:1", [], JOIN_TOKEN, "The control plane does not answer"),
        ("127.0.0.1:8000", [], JOIN_TOKEN, "is not the address of a control plane"),
        (None, ["--label", "nonsense"], JOIN_TOKEN, "KEY=VALUE, not 'nonsense'"),
    ],
)
def test_a_failed_join_says_why_and_leaves_nothing(
    node_api: NodeApi, tmp_path: Path, url: str | None, more: list[str], token: str | None, words: str
):
    told = join(url or node_api.url, "--home", tmp_path / "a" / "home", *more, token=token)
    assert told.exit_code == 1
    assert words in told.output
    assert told.output.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    assert JOIN_TOKEN not in told.output


def test_a_home_that_cannot_be_written_spends_no_token(node_api: NodeApi, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    told = join(node_api.url, "--home", tmp_path / "file" / "home", token=JOIN_TOKEN)
    assert told.exit_code == 1
    assert "Cannot write to" in told.output
    assert node_api.registrations == []


def test_running_before_joining_is_explained(tmp_path: Path):
    told = CliRunner().invoke(cli, ["run", "--home", str(tmp_path)])
    assert told.exit_code == 1
    assert "holds no node. Join first" in told.output


def test_a_damaged_identity_is_explained(tmp_path: Path):
    (tmp_path / "node.json").write_text("{")
    told = CliRunner().invoke(cli, ["run", "--home", str(tmp_path)])
    assert told.exit_code == 1
    assert f"Cannot read {tmp_path}/node.json" in told.output


def test_hardware_is_shown_for_people(tmp_path: Path):
    told = CliRunner().invoke(cli, ["hardware", "--home", str(tmp_path)])
    assert told.exit_code == 0
    assert "cores" in told.output
    assert "runs onnx, " in told.output
    assert list(tmp_path.iterdir()) == []
