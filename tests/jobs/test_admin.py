"""Staff see jobs and their events, and cancel through the service."""

from __future__ import annotations

import pytest
from django.urls import reverse

from jobs.models import Job
from tests import factories
from tests.jobs.work import accepted, submitted
from tests.nodes.reports import Machine

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def job(admin, client) -> Job:
    machine = Machine(admin)
    machine.heartbeat()
    factories.version(admin.user)
    job = submitted(admin)
    accepted(machine, job)
    client.force_login(admin.user)
    return job


@pytest.mark.parametrize("table", ["jobs_job", "jobs_jobevent"])
def test_lists_search_and_pages(job, client, table):
    answer = client.get(reverse(f"admin:{table}_changelist"), {"q": "box"})
    assert answer.status_code == 200
    row = answer.context["cl"].queryset.first()
    page = client.get(reverse(f"admin:{table}_change", args=[row.pk]))
    assert page.status_code == 200
    assert 'name="state"' not in page.content.decode()


def test_cancelling(job, client):
    data = {"action": "cancel", "_selected_action": [str(job.pk)]}
    page = client.post(reverse("admin:jobs_job_changelist"), data, follow=True).content.decode()
    assert "1 cancelled" in page
    assert Job.objects.get().state == "cancelled"
    Job.objects.update(state="succeeded")
    page = client.post(reverse("admin:jobs_job_changelist"), data, follow=True).content.decode()
    assert "has succeeded already" in page
