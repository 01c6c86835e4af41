"""Terminals by the stock ssh client, through the gateway to a real node."""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import signal
import threading
import time
from pathlib import Path
from typing import IO

import pytest
import redis

from tests.e2e.ssh import SshUser
from tests.e2e.terminal_client import Client, in_loop
from tests.e2e.terminals import NODE, Stack
from tests.e2e.test_terminal_doors import sleeping
from tests.e2e.test_terminal_lossless import recorded
from tests.waiting import until

SESSIONS = "/api/v1/terminal/sessions/"
POLICY = f"/api/v1/terminal/nodes/{NODE}/policy"
GRANTS = f"/api/v1/terminal/nodes/{NODE}/grants/"
SEQ = b"".join(b"%d\n" % number for number in range(1, 1_000_001))


def newest(stack: Stack, name: str = "olga") -> dict[str, object]:
    """The session that was asked for last."""
    with stack.api(name) as api:
        return dict(api.get(SESSIONS).json()["results"][0])


def test_a_command_has_its_own_streams_and_exit_status(ssh: SshUser) -> None:
    done = ssh.run("echo out; echo error >&2; cat; exit 7", given=b"given")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\ngiven", b"error\n")
    assert ssh.run("kill -9 $$").returncode == 128 + 9
    assert ssh.run("true").returncode == 0
    script = ssh.run("-T", given=b"echo from a script\nexit 5\n")
    assert (script.returncode, script.stdout) == (5, b"from a script\n")
    on_terminal = ssh.run("-tt", "tty; stty size; exit 4")
    assert on_terminal.returncode == 4
    assert b"/dev/pts/" in on_terminal.stdout


def test_bytes_arrive_as_they_are_in_both_directions(ssh: SshUser) -> None:
    content = os.urandom(3_000_000)
    assert ssh.run("cat", given=content).stdout == content
    assert ssh.run("seq 1 1000000").stdout == SEQ
    assert ssh.run("head -c 5", given=content).stdout == content[:5]  # who reads no more holds up nobody


def test_nothing_is_lost_or_doubled_when_redis_drops_its_connections(ssh: SshUser) -> None:
    content = os.urandom(6_000_000)
    with redis.Redis.from_url(ssh.stack.redis_url) as connection, ssh.piped("cat") as client:
        assert client.stdin
        assert client.stdout
        writer = threading.Thread(target=pour, args=[content, client.stdin])
        writer.start()
        got = bytearray()
        while len(got) < len(content):
            piece = client.stdout.read(500_000)
            assert piece, f"It ended after {len(got)} bytes."
            got += piece
            for kind in ("normal", "pubsub"):
                connection.client_kill_filter(_type=kind, skipme=True)
        writer.join(10)
        assert client.wait(20) == 0
    assert hashlib.sha256(got).digest() == hashlib.sha256(content).digest()


def pour(content: bytes, into: IO[bytes]) -> None:
    with contextlib.suppress(BrokenPipeError), into:
        into.write(content)


def test_a_shell_on_a_terminal(ssh: SshUser) -> None:
    with ssh.at_terminal() as typist:
        typist.says(b"is recorded")
        assert typist.run("stty size") == "24 80"
        typist.resize(101, 31)
        until(lambda: typist.run("stty size") == "31 101", "the window has changed")
        assert typist.run("echo ä漢€") == "ä漢€"
        assert "xterm" in typist.run("echo $TERM") or os.environ.get("TERM", "") in typist.run("echo $TERM")
        typist.type(b"exit 3\n")
        assert typist.ends() == 3
    until(lambda: newest(ssh.stack)["state"] == "ended", "the end is known")
    assert newest(ssh.stack)["exit_code"] == 3


def test_it_is_recorded_and_audited_like_any_other(ssh: SshUser) -> None:
    assert ssh.run("echo be''tween; printf 'a\\nb\\n'").returncode == 0
    session = str(newest(ssh.stack)["id"])
    path = Path(ssh.stack.env["CYXWIZ_HOME"]) / "recordings" / f"{session}.cast"
    until(lambda: path.exists() and b'"x"' in path.read_bytes()[-300:], "the recording is whole")
    assert recorded(path) == "between\r\na\r\nb\r\n"
    told = until(lambda: audited(ssh.stack, session, "left"), "the audit is whole")
    order = [line.split()[0] for line in told]
    assert order[0] == "asked"
    assert {"runs", "opened"} == set(order[1:3])  # the node's and the gateway's word, whichever is sooner
    assert [what for what in order[3:] if what in ("attached", "left")] == ["attached", "left"]
    assert "be''tween" in "".join(told)
    assert "SHA256:" in "".join(told)


def audited(stack: Stack, session: str, last: str) -> list[str]:
    """What is audited of a session, once `last` is."""
    program = (
        "from terminal.models import AuditEvent\n"
        f"for e in AuditEvent.objects.filter(session={session!r}).order_by('id'): print(e.what, e.user, e.details)"
    )
    lines = stack.manage("shell", "--no-imports", "-c", program).splitlines()
    return lines if any(line.startswith(last) for line in lines) else []


def test_ctrl_c_acts_at_once_and_a_stalled_client_costs_no_memory(ssh: SshUser) -> None:
    """`yes`, then a client that takes nothing any more: it holds up itself only."""
    with ssh.at_terminal() as stalled, ssh.at_terminal() as typist:
        for one in (stalled, typist):
            one.run("stty -echo; PS1=; true")
        before = memory(ssh.stack)
        stalled.type(b"yes\n")
        stalled.says(b"y\r\n" * 1000)
        stalled.process.send_signal(signal.SIGSTOP)
        typist.type(b"yes\n")
        typist.says(b"y\r\n" * 100_000)
        typist.screen.clear()
        begun = time.monotonic()
        typist.type(b"\x03echo sto''pped\n")
        typist.says(b"stopped", 5)
        assert time.monotonic() - begun < 0.5 + slowness()
        assert typist.run("echo qui''ck", 5) == "quick"
        grown = {name: mib - before[name] for name, mib in memory(ssh.stack).items() if name in before}
        assert max(grown.values()) < 32, grown
        stalled.process.send_signal(signal.SIGCONT)
        stalled.type(b"\x03exit\n")
        stalled.ends()
        typist.type(b"exit\n")
        typist.ends()


def slowness() -> float:
    """Seconds to grant a machine on which others work, too."""
    return max(0.0, os.getloadavg()[0] / (os.cpu_count() or 1) - 1) * 0.5


def memory(stack: Stack) -> dict[str, float]:
    """MiB, of every process that the bytes pass through."""
    held = {f"holder {p.pid}": p.memory_info().rss / 2**20 for p in stack.holders()}
    return held | {name: stack.resident_mib(name) for name in ("ssh", "recorder", "agent")}


@pytest.mark.parametrize("how", ["grant", "key"])
def test_who_may_not_any_more_is_out_within_five_seconds(ssh: SshUser, how: str, tmp_path: Path) -> None:
    mark = 934567890 + ["grant", "key"].index(how)
    with ssh.stack.api() as api:
        api.post(GRANTS, json={"user": "tom", "role": "operator"})
    tom = SshUser(ssh.stack, tmp_path, "tom")
    with tom.at_terminal() as typist:
        typist.run(f"nohup setsid sleep {mark} >/dev/null 2>&1 & true")
        until(lambda: sleeping(mark), "it sleeps")
        if how == "grant":
            with ssh.stack.api() as api:
                assert api.delete(f"{GRANTS}tom/").status_code == 204
        else:
            with ssh.stack.api("tom") as api:
                assert api.delete(f"/api/v1/ssh-keys/{tom.key_id}/").status_code == 204
        begun = time.monotonic()
        assert typist.ends() == 255
        until(lambda: not sleeping(mark), "its processes are gone")
        assert time.monotonic() - begun < 5
        assert {"grant": b"was withdrawn", "key": b"key that opened it was deleted"}[how] in typist.screen
    again = tom.run("true")
    assert again.returncode == 255
    assert {"grant": b"You know no node 'box'", "key": b"Permission denied (publickey)"}[how] in again.stderr


def test_the_rules_of_a_node_hold(ssh: SshUser) -> None:
    with ssh.stack.api() as api:
        try:
            api.patch(POLICY, json={"reason_required": True}).raise_for_status()
            refused = ssh.run("true")
            assert refused.returncode == 255
            assert b"LC_CYXWIZ_REASON" in refused.stderr
            assert ssh.run('-oSetEnv=LC_CYXWIZ_REASON="disk is full"', "true").returncode == 0
            assert newest(ssh.stack)["reason"] == "disk is full"
        finally:
            api.patch(POLICY, json={"reason_required": False}).raise_for_status()
    nowhere = ssh.run("true", login="olga+nowhere")
    assert (nowhere.returncode, nowhere.stderr) == (255, b"You know no node 'nowhere'.\r\n")


def test_what_needs_approval_waits_for_it(ssh: SshUser, tmp_path: Path) -> None:
    with ssh.stack.api() as owner:
        owner.post(GRANTS, json={"user": "tom", "role": "operator"}).raise_for_status()
        owner.patch(POLICY, json={"approval_required": True}).raise_for_status()
        try:
            tom = SshUser(ssh.stack, tmp_path, "tom")
            with tom.at_terminal("-tt", "echo a''pproved") as typist:
                typist.says(b"has to approve this")
                waiting = newest(ssh.stack)
                assert waiting["state"] == "unapproved"
                owner.post(f"{SESSIONS}{waiting['id']}/approve").raise_for_status()
                typist.says(b"approved\r\n")
                assert typist.ends() == 0
            with tom.at_terminal("-tt", "true") as typist:
                typist.says(b"has to approve this")
                typist.type(b"\x03")
                assert typist.ends() == 255
            until(lambda: newest(ssh.stack)["state"] == "ended", "who gives up leaves nothing waiting")
            with tom.at_terminal("-tt", "echo a''pproved") as typist, ssh.stack.api("tom") as his:
                typist.says(b"has to approve this")
                his.delete(f"/api/v1/ssh-keys/{tom.key_id}/").raise_for_status()
                owner.post(f"{SESSIONS}{newest(ssh.stack)['id']}/approve").raise_for_status()
                typist.says(b"The ssh key that opened it was deleted.")
                assert typist.ends() == 255
        finally:
            owner.patch(POLICY, json={"approval_required": False}).raise_for_status()
            owner.delete(f"{GRANTS}tom/")


@in_loop
async def test_when_the_gateway_is_killed_the_shell_lives_on_for_its_user(ssh: SshUser) -> None:
    with ssh.at_terminal() as typist:
        typist.run("kept=he''re; cd /")
        session = newest(ssh.stack)
        ssh.stack.kill("ssh")
        assert typist.ends() == 255
    assert newest(ssh.stack)["state"] == "open"
    key = ssh.stack.ssh_host_key()
    ssh.stack.start_ssh_gateway()
    assert ssh.stack.ssh_host_key() == key
    with ssh.stack.api() as api:
        ticket = api.post(f"{SESSIONS}{session['id']}/tickets").json()
    async with Client(ssh.stack.url, ssh.stack.keys["olga"], ticket) as client:
        await client.until(lambda: client.ready)
        assert await client.run("echo $kept; pwd") == "here\n/"
        await client.send(b"exit\n")
        await client.until(lambda: client.closed)


def test_a_command_whose_client_left_is_ended(ssh: SshUser) -> None:
    mark = 945678901
    with ssh.at_terminal("-T", f"sleep {mark}") as typist:
        until(lambda: typist.read(0) and sleeping(mark), "it sleeps")
        typist.type(b"\x03")  # of the client itself: without a PTY it passes no keys on
        assert typist.ends() == 255
    until(lambda: not sleeping(mark), "it is gone", seconds=5)
    until(lambda: newest(ssh.stack)["state"] == "ended", "the end is known")


def test_so_is_one_that_leaves_its_input_unread(ssh: SshUser) -> None:
    mark = 956789012
    with ssh.piped(f"sleep {mark}") as client:
        assert client.stdin
        until(lambda: sleeping(mark), "it sleeps")
        while select.select([], [client.stdin], [], 1)[1]:  # until nobody on the way has room for more
            os.write(client.stdin.fileno(), bytes(select.PIPE_BUF))
        client.kill()
        until(lambda: not sleeping(mark), "it is gone", seconds=5)
    until(lambda: newest(ssh.stack)["state"] == "ended", "the end is known")


@pytest.mark.parametrize("options", [[], ["-tt"]])
def test_a_command_whose_output_nobody_reads_any_more_ends(ssh: SshUser, options: list[str]) -> None:
    with ssh.piped(*options, "yes not-read") as client:
        assert client.stdout
        assert any(b"not-read" in line for line in client.stdout)
        client.stdout.close()
        assert client.wait(20) == (255 if options else 128 + signal.SIGPIPE)
    session = str(newest(ssh.stack)["id"])
    if options:  # a terminal waits for its user
        with ssh.stack.api() as api:
            api.post(f"{SESSIONS}{session}/end")
    until(lambda: ssh.stack.session(session)["state"] == "ended", "it has ended")


def test_only_who_writes_on_learns_that_nobody_reads(ssh: SshUser) -> None:
    with ssh.piped("yes; echo still >&2; exit 5") as client:
        assert client.stdout
        client.stdout.readline()
        client.stdout.close()
        assert client.wait(20) == 5
