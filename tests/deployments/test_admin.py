"""The admin shows every table of nodes and deployments, and acts through the services."""

import pytest
from django.urls import reverse

from deployments.models import Deployment
from nodes.models import JoinToken, Node
from tests import factories
from tests.nodes.reports import Machine

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def deployment(admin, client) -> Deployment:
    Machine(admin).heartbeat()
    factories.version(admin.user)
    admin.post("/api/v1/deployments/", {"name": "digits", "model": "digits"})
    client.force_login(admin.user)
    return Deployment.objects.get()


@pytest.mark.parametrize(
    "table",
    [
        *("nodes_node", "nodes_device", "nodes_allocation", "nodes_jointoken"),
        *("deployments_deployment", "deployments_replica", "deployments_deploymentevent"),
        "deployments_deploymentmetric",
    ],
)
def test_lists_search_and_pages_of_every_table(deployment, client, table):
    answer = client.get(reverse(f"admin:{table}_changelist"), {"q": "digits"})
    assert answer.status_code == 200
    row = answer.context["cl"].model.objects.first()
    if row is not None:
        assert client.get(reverse(f"admin:{table}_change", args=[row.pk])).status_code == 200


def test_secrets_are_on_no_page(deployment, client):
    node = Node.objects.get()
    page = client.get(reverse("admin:nodes_node_change", args=[node.pk])).content.decode()
    assert node.token_digest not in page
    assert node.broker_password_digest not in page


def test_actions_go_through_the_services(deployment, client):
    def act(table: str, action: str, pk: object) -> str:
        data = {"action": action, "_selected_action": [str(pk)]}
        return client.post(reverse(f"admin:{table}_changelist"), data, follow=True).content.decode()

    act("deployments_deployment", "stop", deployment.pk)
    deployment.refresh_from_db()
    assert deployment.state == "stopping"
    node = Node.objects.get()
    act("nodes_node", "drain", node.pk)
    assert Node.objects.get().draining
    assert "still holds" in act("nodes_node", "remove", node.pk)


def test_a_join_token_is_shown_once(deployment, client):
    made = client.post(reverse("admin:nodes_jointoken_add"), {"node_name": "gpu-1", "labels": "{}"}, follow=True)
    assert "cyxwiz-node join http://testserver --token cyxj_" in made.content.decode()
    row = JoinToken.objects.get(node_name="gpu-1")
    assert row.digest not in client.get(reverse("admin:nodes_jointoken_changelist")).content.decode()


def test_only_staff_get_in(deployment, owner, client):
    client.force_login(owner.user)
    assert client.get(reverse("admin:deployments_deployment_changelist")).status_code == 302
