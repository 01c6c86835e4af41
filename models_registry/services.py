"""What people do with models: make one, add a version, delete."""

from __future__ import annotations

import re
from collections.abc import Iterable

from django.db import IntegrityError, transaction
from django.db.models import Model as DatabaseRow
from django.db.models import ProtectedError

from accounts.models import User
from models_registry import blobs, formats
from models_registry.models import Model, Version, VersionFile
from protocol.errors import BadRequest, Conflict, NotFound

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


def add_version(
    *, owner: User, name: str, chunks: Iterable[bytes], filename: str = "", sha256: str | None = None
) -> Version:
    """As `add_received`, for bytes that are not in the store's folder yet."""
    with blobs.Incoming() as incoming:
        for chunk in chunks:
            incoming.write(chunk)
        return add_received(owner=owner, name=name, incoming=incoming, filename=filename, sha256=sha256)


def add_received(
    *, owner: User, name: str, incoming: blobs.Incoming, filename: str = "", sha256: str | None = None
) -> Version:
    """The next version of `owner`'s model of that name, which the first push creates. `sha256` is what the sender
    announced. `filename` is kept for people; what the file is, its bytes say. Refused: nothing is left behind."""
    checked_name(name)
    if sha256 is not None:
        incoming.expect(sha256)
    found = formats.recognise(incoming.path)
    metadata = found.metadata | ({"filename": _shown(filename)} if filename else {})
    with transaction.atomic():
        Model.objects.bulk_create([Model(owner=owner, name=name)], ignore_conflicts=True)
        # The lock lets one push after the other take its number.
        model = Model.objects.select_for_update().filter(owner=owner, name=name).first()
        if model is None:
            raise Conflict(f"The model {name!r} was deleted in this very moment. Push again to make a new one.")
        model.last_number += 1
        model.save(update_fields=["last_number"])
        version = Version.objects.create(
            model=model,
            number=model.last_number,
            format=found.format.NAME,
            size_bytes=incoming.size_bytes,
            metadata=metadata,
        )
        VersionFile.objects.create(version=version, path=found.format.FILENAME, blob_id=incoming.sha256)
        incoming.keep()  # last: what fails before it leaves no file in the store
    return version


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
