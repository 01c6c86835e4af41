"""A node fetches the files of what it should run, and no others."""

from __future__ import annotations

import uuid

import pytest
from django.test import Client
from django.utils import timezone

from deployments.models import Deployment, Replica
from jobs.models import Job
from models_registry import blobs, services
from models_registry.models import Version
from nodes.models import Node
from protocol import credentials
from tests.models_registry.samples import linear

LINEAR = linear().SerializeToString()


def node(owner, name: str) -> tuple[Node, Client]:
    token = credentials.new(credentials.NODE_TOKEN)
    row = Node.objects.create(
        owner=owner.user,
        name=name,
        hostname=name,
        operating_system="Linux",
        architecture="x86_64",
        cpu_cores=1,
        disk_total_bytes=1,
        disk_free_bytes=1,
        agent_version="0",
        token_id=token.id,
        token_digest=token.digest,
        token_issued_at=timezone.now(),
        broker_password_digest=uuid.uuid4().hex,
    )
    return row, Client(headers={"Authorization": f"Bearer {token.text}"})


@pytest.fixture
def version(owner) -> Version:
    return services.add_version(owner=owner.user, name="linear", chunks=[LINEAR])


def address(version: Version) -> str:
    return f"/api/node/v1/blobs/{version.files.get().blob_id}"


def test_only_the_node_of_a_replica_gets_its_file(owner, version):
    row, holder = node(owner, "holder")
    _, other = node(owner, "other")
    deployment = Deployment.objects.create(owner=owner.user, name="d", version=version)
    replica = Replica.objects.create(deployment=deployment, index=0, state="loading", node=row)
    assert holder.get(address(version)).getvalue() == LINEAR
    part = holder.get(address(version), headers={"Range": "bytes=10-"})
    assert part.status_code == 206
    assert part.getvalue() == LINEAR[10:]
    assert other.get(address(version)).status_code == 404
    Replica.objects.filter(pk=replica.pk).update(state="stopped")
    assert holder.get(address(version)).status_code == 404


def test_a_running_job_entitles_to_its_model_and_its_inputs(owner, version):
    row, holder = node(owner, "holder")
    inputs = blobs.put_bytes(b"inputs")
    job = Job.objects.create(
        owner=owner.user,
        version=version,
        hardware_class="cpu",
        state="running",
        node=row,
        inputs_blob=inputs,
        inputs_header_bytes=0,
    )
    wanted = f"/api/node/v1/blobs/{inputs.sha256}"
    assert holder.get(wanted).getvalue() == b"inputs"
    assert holder.get(address(version)).getvalue() == LINEAR
    Job.objects.filter(pk=job.pk).update(state="succeeded")
    assert holder.get(wanted).status_code == 404


def test_keys_of_people_and_nonsense_are_refused(owner, version):
    assert owner.get(address(version)).status_code == 401
    assert Client().get(address(version)).status_code == 401
    _, holder = node(owner, "holder")
    for digest in ("0" * 64, "..%2f..%2fetc", "x"):
        assert holder.get(f"/api/node/v1/blobs/{digest}").status_code == 404
