"""Uploads are checked by a process with limits, and what became of each is kept: HTTP in, HTTP and rows out."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from datetime import timedelta

import msgspec
import pytest
from django.utils import timezone

from confinement import landlock
from models_registry import admission, checker
from models_registry.models import Admission, Version
from tests.models_registry.test_gguf import ENTRIES, file, word, words
from tests.models_registry.test_models_api import DIGEST, LINEAR, files, nothing_is_left, push

pytestmark = pytest.mark.django_db(transaction=True)

# A GGUF file that takes a second to walk, and then has a template that compiles for ever.
ENDLESS = file(ENTRIES | {"texts": words(*[""] * 3_900_000), "tokenizer.chat_template": word("{{ 9 ** (9 ** 9) }}")})


def limit(monkeypatch: pytest.MonkeyPatch, **limits: float) -> None:
    monkeypatch.setattr(checker, "LIMITS", msgspec.structs.replace(checker.LIMITS, **limits))


def rejected(answer, settings) -> str:
    """That the upload was refused with the reason that is kept, and nothing else of it."""
    assert answer.status_code == 422, answer.content
    assert answer.json()["code"] == "model_refused"
    assert nothing_is_left(settings)
    [row] = Admission.objects.all()
    assert (row.state, row.version, row.reason) == ("rejected", None, answer.json()["detail"])
    assert row.ended_at is not None
    return row.reason


def test_what_was_admitted_is_kept_with_its_version(owner):
    assert push(owner, query="?filename=my.onnx").status_code == 201
    [row] = Admission.objects.all()
    assert (row.owner, row.name, row.filename, row.sha256) == (owner.user, "linear", "my.onnx", DIGEST)
    assert (row.state, row.reason, row.version) == ("admitted", "", Version.objects.get())
    assert row.size_bytes == len(LINEAR)


def test_what_was_rejected_is_known_to_staff_and_to_nobody_else(owner, admin, settings):
    reason = rejected(push(owner, b"MZ is no model", query="?filename=evil.exe"), settings)
    assert reason
    [row] = Admission.objects.all()
    assert (row.owner, row.filename, row.size_bytes) == (owner.user, "evil.exe", 14)
    admin.client.force_login(admin.user)
    page = admin.get("/admin/models_registry/admission/").content.decode()
    assert "evil.exe" in page
    assert "rejected" in page


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"cpu_seconds": 1}, "more time or memory"),
        ({"wall_seconds": 0.5}, "more time or memory"),
        ({"memory_bytes": 1}, "memory"),
    ],
)
def test_a_check_that_goes_beyond_its_limits_has_refused(owner, settings, monkeypatch, limits, words):
    limit(monkeypatch, **limits)
    assert words in rejected(push(owner, ENDLESS), settings)
    limit(monkeypatch, wall_seconds=30, cpu_seconds=20, memory_bytes=2 * checker.GIB)
    assert push(owner).status_code == 201  # the next has a process of its own


def test_a_check_that_hangs_is_ended(owner, settings, monkeypatch):
    """One that no limit of its own reaches, because it does not run at all."""
    limit(monkeypatch, wall_seconds=0.2)
    monkeypatch.setattr(checker, "KILL_AFTER_SECONDS", 0.1)
    assert push(owner, b"no model").status_code == 422
    Admission.objects.all().delete()
    hanging = checker._spare
    assert hanging is not None
    hanging.send_signal(signal.SIGSTOP)
    assert "ended" in rejected(push(owner), settings)
    assert hanging.returncode == -signal.SIGKILL


def test_a_process_that_died_before_its_turn_costs_nobody_anything(owner):
    assert push(owner).status_code == 201
    assert checker._spare is not None
    os.kill(checker._spare.pid, signal.SIGKILL)
    os.waitid(os.P_PID, checker._spare.pid, os.WEXITED | os.WNOWAIT)
    assert push(owner).status_code == 201


def test_a_file_larger_than_the_address_space_is_read_all_the_same(owner, monkeypatch, settings):
    """Files are mapped, and so count; the limit is for what the check needs besides."""
    limit(monkeypatch, memory_bytes=150 * 2**20)
    padded = LINEAR + b"\x32" + b"\xff\xff\xff\x7f" + bytes(2**28 - 1)  # doc_string of 256 MiB, which nobody reads
    answer = push(owner, padded)
    assert answer.status_code == 201, answer.content


def test_a_wrong_digest_is_kept_as_well(owner, settings):
    answer = push(owner, query=f"?sha256={'0' * 64}")
    assert (answer.status_code, files(settings)) == (422, [])
    [row] = Admission.objects.all()
    assert (row.state, row.sha256) == ("rejected", DIGEST)


def test_too_many_checks_at_once_wait_for_their_turn(owner, settings, monkeypatch):
    monkeypatch.setattr(checker, "TURN_SECONDS", 0.1)
    for _ in range(checker.AT_ONCE):
        checker.turns.acquire()
    try:
        assert push(owner).status_code == 503
        assert files(settings) == []
    finally:
        for _ in range(checker.AT_ONCE):
            checker.turns.release()
    assert Admission.objects.get().state == "rejected"
    assert push(owner).status_code == 201


@pytest.mark.parametrize("state", ["quarantined", "checking"])
def test_what_a_web_process_took_along_is_rejected_later(owner, state):
    fields = {"owner": owner.user, "name": "m", "sha256": DIGEST, "size_bytes": 1, "state": state}
    young, old, ancient = (Admission.objects.create(**fields) for _ in range(3))
    now = timezone.now()
    Admission.objects.filter(pk=old.pk).update(created_at=now - admission.FORGOTTEN - timedelta(minutes=1))
    Admission.objects.filter(pk=ancient.pk).update(created_at=now - admission.KEPT - timedelta(days=1))
    admission.sweep()
    assert dict(Admission.objects.values_list("pk", "state")) == {young.pk: state, old.pk: "rejected"}


def test_the_process_reaches_nothing_but_its_own_file(tmp_path):
    """What it may do is tried from within, after it has given up the rest."""
    model, other = tmp_path / "model", tmp_path / "other"
    model.write_bytes(b"a model")
    other.write_bytes(b"somebody's secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        run = subprocess.run(
            [sys.executable, "-c", WITHIN, str(model), str(other), str(server.getsockname()[1])],
            capture_output=True,
            text=True,
            check=False,
            env={"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
    assert run.returncode == 0, run.stderr
    assert not (tmp_path / "new").exists()
    done = json.loads(run.stdout)
    assert done.pop("read its file")
    assert not done["write"]
    try:
        landlock.abi()
    except OSError:
        pytest.skip("this kernel has no Landlock")
    assert [attempt for attempt, succeeded in done.items() if succeeded] == []


WITHIN = """
import json, os, socket, subprocess, sys
from pathlib import Path
from models_registry.formats.__main__ import give_up
from models_registry.formats.requests import Limits, Request
model, other, port = sys.argv[1:]
limits = Limits(wall_seconds=10, cpu_seconds=5, memory_bytes=2**31)
give_up(Request(files={"": model}, is_folder=False, declared=None, limits=limits))
attempts = {
    "read its file": lambda: Path(model).read_bytes(),
    "write": lambda: (Path(other).parent / "new").write_bytes(b"x"),
    "read another's file": lambda: Path(other).read_bytes(),
    "read the machine's files": lambda: Path("/etc/passwd").read_bytes(),
    "read the environment of who started it": lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
    "list a folder": lambda: os.listdir("/"),
    "connect": lambda: socket.create_connection(("127.0.0.1", int(port)), 2),
    "start a program": lambda: subprocess.run(["/bin/true"]),
    "fork": lambda: os.fork() or os._exit(0),
    "kill": lambda: os.kill(os.getppid(), 0),
}
done = {}
for name, attempt in attempts.items():
    try:
        attempt()
        done[name] = True
    except OSError:
        done[name] = False
print(json.dumps(done))
"""
