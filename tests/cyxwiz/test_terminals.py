"""`cyxwiz nodes ssh` and `exec`: what they refuse before anything is opened."""

from __future__ import annotations

import pytest

from cyxwiz.cli.exit_codes import ExitCode
from cyxwiz.terminal import frames
from protocol import names, terminal
from terminal.models import AuditEvent

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_terminal_of_another_node_than_the_named_one_is_not_taken_up(cyxwiz, logged_in, machine, owner, empty_redis):
    empty_redis.set(names.TERMINAL_RECORDER, "1")
    id = owner.post("/api/v1/terminal/sessions/", {"node": "box"}).json()["id"]
    refused = cyxwiz("nodes", "ssh", "--session", id, "nope")
    assert (refused.code, f"The terminal {id} is on box, not on nope." in refused.err) == (ExitCode.USAGE, True)
    assert AuditEvent.objects.filter(what="ticket").count() == 1  # of the asking


TOO_LONG, NO_TEXT = "x" * (terminal.COMMAND_MOST_BYTES + 1), "echo \udcff"


@pytest.mark.parametrize(
    ("command", "why"), [(TOO_LONG, "A command has at most 24576 bytes"), (NO_TEXT, "The command is not UTF-8")]
)
def test_a_command_that_cannot_be_sent_opens_nothing_and_says_what_to_do(
    cyxwiz, logged_in, machine, empty_redis, command, why
):
    empty_redis.set(names.TERMINAL_RECORDER, "1")
    refused = cyxwiz("nodes", "exec", "box", command)
    assert (refused.code, f"{why}. Give it as a script on standard input" in refused.err) == (ExitCode.USAGE, True)
    assert not AuditEvent.objects.exists()


@pytest.mark.parametrize("letter", ['"', "\n", "ü"])
def test_a_command_of_the_most_bytes_goes_through_either_door(letter):
    command = letter * (terminal.COMMAND_MOST_BYTES // len(letter.encode()))
    assert frames.COMMAND_MOST_BYTES == terminal.COMMAND_MOST_BYTES
    sent = frames.hello(cols=80, rows=24, ticket="t" * 100, run=frames.Run(command))
    assert terminal.decode_hello(sent).run == terminal.Run(command=command)
    longer = terminal.Hello(version=1, cols=80, rows=24, ticket="t", run=terminal.Run(command=command + letter))
    with pytest.raises(terminal.BadFrame, match="A command has at most 24576 bytes"):
        terminal.decode_hello(terminal.encode(terminal.HELLO, longer))
