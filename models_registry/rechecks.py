"""Versions that were admitted by older rules than today's (`formats.CHECKS`) are checked again, from their blobs and as
at upload: what their files say of themselves is written anew, or why they are refused now.

A check that comes to no end because the control plane lacks something changes nothing, and is made by the next sweep.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from accounts.sweeps import one_of_many
from models_registry import blobs, checker, formats, memory
from models_registry.models import Version
from protocol.errors import CyxwizError, ModelRefused, Unavailable

log = logging.getLogger(__name__)

SWEEP_SECONDS = 10.0  # then it leaves its thread of the control worker to others, until beat sets it off again


def why_not_started(version: Version) -> str:
    """Nothing where it may be loaded."""
    if version.refused:
        return f"{version} was admitted, but today's rules refuse it: {version.refused}"
    if version.checked_by < formats.LEAST_CHECKS:
        return f"{version} was admitted by older rules, and waits to be checked by today's."
    return ""


def sweep() -> None:
    until = time.monotonic() + SWEEP_SECONDS
    outdated = Version.objects.filter(checked_by__lt=formats.CHECKS).order_by("checked_by", "pk")
    for pk in list(outdated.values_list("pk", flat=True)):
        version = outdated.select_related("model").filter(pk=pk).first()
        if version is None:
            continue
        if time.monotonic() > until:
            return
        with one_of_many(log, f"version {pk}, {version}"):
            try:
                check_again(version)
            except (Unavailable, OSError) as error:
                log.warning("%s cannot be checked again now: %s", version, error)


def check_again(version: Version) -> None:
    now = Version.objects.filter(pk=version.pk, checked_by=version.checked_by)
    try:
        metadata = _check(version)
    except Unavailable:
        raise
    except CyxwizError as error:
        log.warning("%s is refused now: %s", version, error.message)
        now.update(checked_by=formats.CHECKS, refused=error.message)
    else:
        now.update(checked_by=formats.CHECKS, refused="", metadata=metadata)


def _check(version: Version) -> dict[str, object]:
    files = {file.path: blobs.path(file.blob) for file in version.files.select_related("blob")}
    for path in files.values():
        path.stat()  # one that the store has lost is not the model's fault
    with checker.turn():
        found = _recognised(version, files)
    if found is None or version.format != found.format.NAME:
        raise ModelRefused(f"It is no {version.format} model any more. Push it again.")
    return found.metadata | {name: version.metadata[name] for name in ("filename",) if name in version.metadata}


def _recognised(version: Version, files: dict[str, Path]) -> formats.Recognised | None:
    declared = memory.signature(version) if version.metadata.get("declared") else None
    if any(format.matches_names(files) for format in formats.FOLDERS):
        return checker.check_folder(files, declared)
    (only,) = files.values()
    return checker.check_upload(only, declared)
