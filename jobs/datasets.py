"""Data sets that people have uploaded for jobs: put, find, delete."""

from __future__ import annotations

import uuid

import msgspec

from accounts.models import User
from jobs import dataset_files
from jobs.models import Dataset
from models_registry import blobs
from protocol.datasets import Column, Format
from protocol.errors import NotFound


def put(
    *, owner: User, incoming: blobs.Incoming, filename: str = "", sha256: str | None = None, format: Format | None
) -> tuple[Dataset, bool]:
    """The data set and whether it is new: the same file twice is one data set. Refused: nothing is left behind."""
    if sha256 is not None:
        incoming.expect(sha256)
    found = dataset_files.inspect(incoming.path, format)
    dataset, is_new = Dataset.objects.get_or_create(
        owner=owner,
        blob=incoming.keep(),
        format=found.format,
        defaults={
            "rows": found.rows,
            "columns": msgspec.to_builtins(found.columns),
            "filename": "".join(sign for sign in filename if sign.isprintable())[:255],
        },
    )
    return dataset, is_new


def find(owner: User, id: uuid.UUID) -> Dataset:
    dataset = Dataset.objects.visible_to(owner).select_related("blob").filter(pk=id).first()
    if dataset is None:
        raise NotFound(f"You have no data set {id}. Upload one: POST /api/v1/jobs/datasets/.")
    assert isinstance(dataset, Dataset)
    return dataset


def columns(dataset: Dataset) -> list[Column]:
    return msgspec.convert(dataset.columns, list[Column])
