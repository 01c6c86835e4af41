"""Every page of the admin opens, with and without rows, and a list makes no query per row."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
from django.contrib import admin as django_admin
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts.models import ApiKey, User
from deployments.models import Deployment, DeploymentEvent, DeploymentMetric, Replica
from jobs.models import Job, JobEvent
from models_registry import blobs, services
from models_registry.models import Model, Version
from nodes.models import Allocation, Benchmark, Device, JoinToken, Node
from terminal import audit
from terminal.models import AuditEvent
from tests import factories

SITE = django_admin.site
EVERY = [pytest.param(model, id=model._meta.label_lower) for model in SITE._registry]


@pytest.fixture
def browser(admin) -> Client:
    client = Client()
    client.force_login(admin.user)
    return client


def fleet(owner: User, name: str, state: str = "running") -> None:
    """One of each thing."""
    node = Node.objects.create(
        owner=owner,
        name=name,
        state="online" if state == "running" else "offline",
        hostname=name,
        operating_system="Linux",
        architecture="x86_64",
        cpu_cores=8,
        disk_total_bytes=10**12,
        disk_free_bytes=10**11,
        agent_version="0",
        token_id=uuid.uuid4().hex[:12],
        token_digest="0" * 64,
        token_issued_at=timezone.now(),
        broker_password_digest="0" * 64,
    )
    device = Device.objects.create(node=node, name="cpu", kind="cpu", memory_total_bytes=2**34)
    Benchmark.objects.create(device=device, measured_at=timezone.now(), method="NumPy", seconds=1, loaded_models=0)
    Allocation.objects.create(device=device, holder=f"replica:{uuid.uuid4()}:1", memory_bytes=2**20)
    JoinToken.objects.create(
        owner=owner,
        token_id=uuid.uuid4().hex[:12],
        digest="0" * 64,
        expires_at=timezone.now() + timedelta(minutes=15),
        used_by=node,
    )
    version = factories.version(owner, name)
    deployment = Deployment.objects.create(
        owner=owner, name=name, version=version, state=state, reason="" if state == "running" else "no node has room"
    )
    replica = Replica.objects.create(
        deployment=deployment,
        index=0,
        state="ready" if state == "running" else "failed",
        node=node,
        device=device,
        allocated_bytes=2**20,
    )
    DeploymentEvent.objects.create(
        deployment=deployment, replica=replica, replica_index=0, node=node, came_from="waiting", went_to="placed"
    )
    DeploymentMetric.objects.create(deployment=deployment, minute=timezone.now(), requests=10, errors=1)
    job = Job.objects.create(
        owner=owner,
        version=version,
        hardware_class="cpu",
        node=node,
        device=device,
        inputs_blob=blobs.put_bytes(name.encode()),
        inputs_header_bytes=0,
    )
    JobEvent.objects.create(job=job, fence=1, node=node, came_from="queued", went_to="running")


def pages(model) -> dict[str, str]:
    label = model._meta.label_lower.replace(".", "_")
    found = {"list": reverse(f"admin:{label}_changelist"), "add": reverse(f"admin:{label}_add")}
    if (row := model._default_manager.first()) is not None:
        for page in ("change", "delete", "history"):
            found[page] = reverse(f"admin:{label}_{page}", args=[row.pk])
    return found


@pytest.mark.parametrize("model", EVERY)
@pytest.mark.parametrize("rows", [0, 1])
def test_every_page_opens(browser, owner, admin, model, rows):
    if rows:
        fleet(owner.user, "one")
    found = pages(model)
    for query in ("", "?q=one", "?o=1"):
        assert browser.get(found["list"] + query).status_code == 200
    for name, path in found.items():
        assert browser.get(path).status_code in ((200,) if name in ("list", "change", "history") else (200, 403)), path


@pytest.mark.parametrize("model", EVERY)
def test_a_list_makes_no_query_per_row(browser, owner, model):
    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            assert browser.get(pages(model)["list"]).status_code == 200
        return len(captured)

    fleet(owner.user, "one")
    queries()  # permissions and content types are cached by the first
    few = queries()
    for name in ("two", "three", "four", "five"):
        fleet(owner.user, name)
    assert queries() <= few + 1


class TestFirstPage:
    def test_it_is_there_without_rows(self, browser):
        page = browser.get("/admin/").content.decode()
        assert "No machine has joined yet" in page
        assert "Nothing is deployed" in page
        assert "No job was submitted" in page
        assert "/admin/models_registry/model/" in page

    def test_what_fails_comes_first(self, browser, owner):
        fleet(owner.user, "alpha")
        fleet(owner.user, "omega", state="failed")
        page = browser.get("/admin/").content.decode()
        assert page.index("omega") < page.index("alpha")
        assert "no node has room" in page
        assert "?state__exact=failed" in page
        assert browser.get("/admin/deployments/deployment/?state__exact=failed").status_code == 200

    def test_it_makes_few_queries_however_much_there_is(self, browser, owner, django_assert_max_num_queries):
        for number in range(12):
            fleet(owner.user, f"n{number}")
        with django_assert_max_num_queries(12):
            page = browser.get("/admin/").content.decode()
        assert page.count("of 1 ready") == 8  # the rest is behind the link

    def test_staff_see_only_panels_of_what_they_may_view(self, db, empty_redis, owner):
        fleet(owner.user, "secret-fleet")
        clerk = User.objects.create_user("carl", is_staff=True)
        browser = Client()
        browser.force_login(clerk)
        page = browser.get("/admin/")
        assert page.status_code == 200
        assert "secret-fleet" not in page.content.decode()


def test_models_are_shown_with_their_versions_and_metadata(browser, owner):
    from tests.models_registry.samples import linear

    version = services.add_version(owner=owner.user, name="linear", chunks=[linear().SerializeToString()])
    page = browser.get(f"/admin/models_registry/version/{version.pk}/change/").content.decode()
    assert "ai.onnx" in page
    assert version.files.get().blob_id[:12] in page
    assert "linear@1" in browser.get(f"/admin/models_registry/model/{version.model_id}/change/").content.decode()


def test_a_version_in_use_cannot_be_deleted_in_the_admin(browser, owner):
    fleet(owner.user, "one")
    version = Version.objects.get()
    for row in (version, version.model):
        label = row._meta.label_lower.replace(".", "_")
        address = reverse(f"admin:{label}_delete", args=[row.pk])
        assert "one" in browser.get(address).content.decode()
        browser.post(address, {"post": "yes"})
    assert Model.objects.exists()
    assert Version.objects.exists()


def test_figures_are_rounded_long_texts_shortened_and_empty_values_no_braces(browser, owner):
    fleet(owner.user, "one")
    Benchmark.objects.update(gflops=23.877386247811398)
    page = browser.get(reverse("admin:nodes_benchmark_changelist")).content.decode()
    assert '<span title="NumPy">23.9</span>' in page
    assert "23.877" not in page
    Deployment.objects.update(reason="no room " * 60)
    page = browser.get(reverse("admin:deployments_deployment_changelist")).content.decode()
    assert f'<span title="{"no room " * 60}">{("no room " * 60)[:100]}…</span>' in page
    assert "{}" not in browser.get(pages(Node)["change"]).content.decode()


def test_an_audit_event_says_who_why_and_of_which_terminal(browser):
    terminal = uuid.uuid4()
    audit.write("granted", session_id=terminal, node="box", to="carl", reason="a ticket")
    page = browser.get("/admin/terminal/auditevent/").content.decode()
    assert "to: carl, reason: a ticket" in page
    assert f'<span title="{terminal}">{str(terminal)[:8]}…</span>' in page
    assert f"{AuditEvent.objects.get().at:%Y-%m-%d %H:%M:%S}" in page


def test_secrets_are_on_no_page(browser, owner):
    fleet(owner.user, "one")
    key = ApiKey.objects.filter(owner=owner.user).get()
    for model in (ApiKey, Node, JoinToken):
        for path in pages(model).values():
            page = browser.get(path).content.decode()
            assert key.digest not in page
            assert "0" * 64 not in page
