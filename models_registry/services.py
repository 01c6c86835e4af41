"""What people do with models: make one, add a version, delete."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import msgspec
from django.db import IntegrityError, transaction
from django.db.models import Model as DatabaseRow
from django.db.models import ProtectedError

from accounts.models import User
from models_registry import admission, blobs, checker, formats, rechecks
from models_registry.folders import unpacked
from models_registry.formats import Recognised, foreign
from models_registry.models import Admission, Model, Version, VersionFile
from protocol.errors import BadRequest, Conflict, ModelRefused, NotFound, NothingRunsIt
from protocol.tensors import Signature

NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
NAMED = 3  # of what still uses a version, so many are named


def create_model(*, owner: User, name: str, description: str = "") -> Model:
    checked_name(name)
    try:
        with transaction.atomic():
            return Model.objects.create(owner=owner, name=name, description=description)
    except IntegrityError as error:
        raise Conflict(
            f"You have a model named {name!r} already. Push a version to it, or choose another name."
        ) from error


def add_version(*, owner: User, name: str, chunks: Iterable[bytes], sha256: str | None = None, **more: Any) -> Version:
    """As `add_received`, for bytes that are not in the store's folder yet."""
    with blobs.Incoming() as incoming:
        for chunk in chunks:
            incoming.write(chunk)
        return add_received(owner=owner, name=name, incoming=incoming, sha256=sha256, **more)


def add_received(
    *,
    owner: User,
    name: str,
    incoming: blobs.Incoming,
    filename: str = "",
    sha256: str | None = None,
    number: int | None = None,
    declared: Signature | None = None,
) -> Version:
    """A version of `owner`'s model of that name, which the first push creates: the next, or that of the given number,
    which must be higher than all before. `incoming` is the model's file, or its folder in a zip archive. `sha256` is
    what the sender announced. `filename` is kept for people; what the file is, its bytes say. `declared`: what the
    model takes and gives, for formats that do not tell. Refused: nothing is left behind."""
    checked_name(name)
    filename = _shown(filename)
    with ExitStack() as stack:
        row = stack.enter_context(admission.admission(owner, name, incoming, filename))
        if sha256 is not None:
            incoming.expect(sha256)
        arrived = [incoming]
        with admission.checking(row):
            found = checker.check_upload(incoming.path, declared)
            if found is None:
                files = stack.enter_context(unpacked(incoming.path))
                arrived = list(files.values())
                found = checker.check_folder({path: file.path for path, file in files.items()}, declared)
        return _add(row, number, found, arrived)


def _add(row: Admission, number: int | None, found: Recognised, arrived: list[blobs.Incoming]) -> Version:
    owner, name = row.owner, row.name
    about = {"filename": row.filename} if row.filename else {}
    parts = {part.path: part for part in arrived}
    files = {path: parts[place] for path, place in found.files.items()}
    with transaction.atomic():
        Model.objects.bulk_create([Model(owner=owner, name=name)], ignore_conflicts=True)
        # The lock lets one push after the other take its number.
        model = Model.objects.select_for_update().filter(owner=owner, name=name).first()
        if model is None:
            raise Conflict(f"The model {name!r} was deleted in this very moment. Push again to make a new one.")
        if number is not None and number <= model.last_number:
            raise Conflict(
                f"Model {name!r} has had the version number {model.last_number} already, and numbers only grow: the "
                f"next is {model.last_number + 1} or higher."
            )
        model.last_number = model.last_number + 1 if number is None else number
        model.save(update_fields=["last_number"])
        version = Version.objects.create(
            model=model,
            number=model.last_number,
            format=found.format.NAME,
            size_bytes=sum(part.size_bytes for part in files.values()),
            content=content({path: part.sha256 for path, part in files.items()}),
            metadata=found.metadata | about,
            checked_by=formats.CHECKS,
        )
        VersionFile.objects.bulk_create(
            [VersionFile(version=version, path=path, blob_id=part.sha256) for path, part in files.items()]
        )
        # Last: what fails before it leaves no file in the store. In one order, for each keeps its row locked.
        for part in sorted({part.sha256: part for part in files.values()}.values(), key=lambda part: part.sha256):
            part.keep()
        admission.admit(row, version)
    return version


def content(files: Mapping[str, str]) -> str:
    """What `Version.content` is, of SHA-256 by path."""
    return hashlib.sha256(msgspec.json.encode(sorted(files.items()))).hexdigest()


def find_version(owner: User, name: str, number: int | None) -> Version:
    """A version of a model that `owner` may use, the newest where no number is given. Raises NotFound."""
    model = Model.objects.visible_to(owner).filter(name=name).first()
    if model is None:
        raise NotFound(f"You have no model named {name!r}. `cyxwiz models ls` shows those you have.")
    versions = Version.objects.filter(model=model).select_related("model").order_by("-number")
    version = (versions if number is None else versions.filter(number=number)).first()
    if version is None:
        raise NotFound(f"Model {name!r} has no version {number if number is not None else 'yet'}.")
    return version


def check_runs(version: Version) -> None:
    """Whether there is a runtime for what it is at all, and it is not refused since. Raises NothingRunsIt,
    ModelRefused."""
    if version.refused:
        raise ModelRefused(rechecks.why_not_started(version))
    if version.format in formats.WEIGHTS:
        raise NothingRunsIt(
            f"{version} is a safetensors file: weights without a graph, which are kept and run by nothing. Build the "
            f"model in PyTorch, load them into it, {foreign.EXPORT}; then push that."
        )


def delete_version(version: Version) -> None:
    try:
        version.delete()
    except ProtectedError as error:
        raise _in_use(str(version), error) from error


def delete_model(model: Model) -> None:
    """With all its versions, or not at all."""
    try:
        model.delete()
    except ProtectedError as error:
        raise _in_use(model.name, error) from error


def checked_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise BadRequest(f"{name[:80]!r} is no model name: 1 to 63 of a-z, 0-9, '-', '_', '.', no sign at either end.")
    return name


def _in_use(what: str, error: ProtectedError) -> Conflict:
    users = sorted(_called(row) for row in error.protected_objects)
    more = f" and {len(users) - NAMED} more" if len(users) > NAMED else ""
    return Conflict(f"{what} is in use by {', '.join(users[:NAMED])}{more}. Delete these first.", used_by=users[:100])


def _called(row: DatabaseRow) -> str:
    kind = str(row._meta.verbose_name)
    return str(row) if str(row).startswith(kind) else f"{kind} {row}"


def _shown(filename: str) -> str:
    """The last part of what may be a path of the sender's machine, without what cannot be shown."""
    last = re.split(r"[/\\]", filename)[-1]
    return "".join(character for character in last if character.isprintable())[:255]
