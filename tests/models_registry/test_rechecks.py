"""Versions are checked again when the rules have changed: real rows and files, the real checker."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import msgspec
import pytest

from models_registry import blobs, checker, formats, tasks
from models_registry.models import Version, VersionFile
from protocol.tensors import Signature
from tests.cast import Person
from tests.models_registry.samples import foreign
from tests.models_registry.test_models_api import LINEAR, VERSIONS, push
from tests.models_registry.test_onnx_folders import WEIGHTS, folder, split
from tests.models_registry.test_savedmodel import ARCHIVE
from tests.models_registry.test_torch_archives import DECLARED
from tests.models_registry.torch_files import EXPORT, SCRIPT

pytestmark = pytest.mark.django_db(transaction=True)

REFUSED_NOW = foreign().SerializeToString()


def pushed(person: Person, content: bytes = LINEAR, declared: Signature | None = None) -> Version:
    said = msgspec.to_builtins(declared) if declared else {}
    query = urlencode({"filename": "mine.bin", **{name: json.dumps(tensors) for name, tensors in said.items()}})
    answer = push(person, content, query=f"?{query}")
    assert answer.status_code == 201, answer.content
    return Version.objects.get(number=answer.json()["number"])


def exchange_file(version: Version, content: bytes = REFUSED_NOW) -> None:
    """As if the rules of its time had admitted this."""
    VersionFile.objects.filter(version=version).update(blob=blobs.put_bytes(content))


@pytest.fixture
def stricter(monkeypatch) -> None:
    monkeypatch.setattr(formats, "CHECKS", formats.CHECKS + 1)


def after_the_sweep(version: Version) -> tuple[int, str]:
    tasks.check_again()
    version.refresh_from_db()
    return version.checked_by, version.refused


@pytest.mark.parametrize(
    ("content", "declared"),
    [
        (LINEAR, None),
        (folder(split(), **{"weights.bin": WEIGHTS}), None),
        (ARCHIVE, None),
        (EXPORT, None),
        (SCRIPT, DECLARED),
    ],
    ids=["one file", "a folder", "savedmodel", "pt2", "torchscript"],
)
def test_what_files_say_of_themselves_is_written_anew(owner, monkeypatch, content, declared):
    version = pushed(owner, content, declared)
    assert version.checked_by == formats.CHECKS
    found = version.metadata
    kept = {key: value for key, value in found.items() if key in ("filename", "declared", "inputs", "outputs")}
    Version.objects.update(metadata=kept)
    assert after_the_sweep(version) == (formats.CHECKS, "")
    assert version.metadata == kept  # nothing is looked at twice
    monkeypatch.setattr(formats, "CHECKS", formats.CHECKS + 1)
    assert after_the_sweep(version) == (formats.CHECKS, "")
    assert version.metadata == found


def test_what_todays_rules_refuse_is_refused_and_taken_back_when_they_are_loosened(owner, stricter, monkeypatch):
    version, fine = pushed(owner), pushed(owner)
    exchange_file(version)
    Version.objects.update(checked_by=0)
    checked, why = after_the_sweep(version)
    assert checked == formats.CHECKS
    assert "'evil.ops' (Run)" in why
    assert after_the_sweep(fine) == (formats.CHECKS, "")
    exchange_file(version, LINEAR)
    monkeypatch.setattr(formats, "CHECKS", formats.CHECKS + 1)
    assert after_the_sweep(version) == (formats.CHECKS, "")


def test_who_may_see_it_sees_it(owner, team_mate, outsider, admin):
    version = pushed(owner)
    exchange_file(version)
    Version.objects.update(checked_by=0)
    after_the_sweep(version)
    shown = owner.get(f"{VERSIONS}1/").json()
    assert (shown["checked_by"], shown["refused"]) == (formats.CHECKS, version.refused)
    assert owner.get("/api/v1/models/linear/").json()["latest"]["refused"] == version.refused
    assert {person.get(f"{VERSIONS}1/").status_code for person in (team_mate, outsider)} == {404}
    admin.client.force_login(admin.user)
    assert "icon-no" in admin.get("/admin/models_registry/version/?refused__isempty=0").content.decode()
    assert "evil.ops" in admin.get(f"/admin/models_registry/version/{version.pk}/change/").content.decode()


def test_a_check_that_was_ended_by_its_limits_has_refused(owner, monkeypatch):
    version = pushed(owner)
    Version.objects.update(checked_by=0)
    monkeypatch.setattr(checker, "LIMITS", msgspec.structs.replace(checker.LIMITS, memory_bytes=1))
    checked, why = after_the_sweep(version)
    assert checked == formats.CHECKS
    assert "memory" in why


def test_what_the_control_plane_lacks_refuses_nothing(owner, monkeypatch, stricter):
    """No turn, no process, no file: it is tried again, and holds nobody else up."""
    unlucky, other = pushed(owner), pushed(owner, EXPORT)
    Version.objects.update(checked_by=0)
    with monkeypatch.context() as short:
        short.setattr(checker, "TURN_SECONDS", 0.01)
        for _ in range(checker.AT_ONCE):
            checker.turns.acquire()
        try:
            assert after_the_sweep(unlucky) == (0, "")
        finally:
            for _ in range(checker.AT_ONCE):
                checker.turns.release()
    with monkeypatch.context() as short:
        short.setattr(checker, "COMMAND", ["/no/such/program"])
        checker._end()
        short.setattr(checker, "_spare", None)
        assert after_the_sweep(unlucky) == (0, "")
    file = blobs.path(unlucky.files.get().blob)
    away = file.rename(file.with_suffix(".away"))
    assert after_the_sweep(unlucky) == (0, "")
    assert after_the_sweep(other) == (formats.CHECKS, "")
    away.rename(file)
    assert after_the_sweep(unlucky) == (formats.CHECKS, "")


def test_one_that_cannot_be_checked_keeps_no_other_from_it(owner, stricter, caplog):
    broken, fine = pushed(owner), pushed(owner)
    Version.objects.update(checked_by=0)
    Version.objects.filter(pk=broken.pk).update(metadata={"declared": True})
    assert after_the_sweep(broken) == (0, "")
    assert f"version {broken.pk}, linear@1" in caplog.text
    fine.refresh_from_db()
    assert fine.checked_by == formats.CHECKS


def test_a_fake_model_of_impossible_size_is_refused_now(owner, stricter):
    about = b'{"cyxwiz_fake": 1, "inputs": [], "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}]'
    version = pushed(owner, about + b"}")
    exchange_file(version, about + b', "memory_bytes": -5}')
    Version.objects.update(checked_by=0)
    assert after_the_sweep(version)[0] == formats.CHECKS
    assert ">= 1" in version.refused
