"""Staff make and revoke API keys in the admin; the secret is seen once and nowhere else."""

import re

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from accounts import keys, staff_admin
from accounts.models import ApiKey
from cyxwiz.cli import output


@pytest.fixture
def browser(admin) -> Client:
    client = Client()
    client.force_login(admin.user)
    return client


def test_a_new_key_is_shown_once_and_works(browser, owner):
    form = {
        "owner": owner.user.pk,
        "name": "from the admin",
        "scopes": ["infer"],
        "expires_at_0": "",
        "expires_at_1": "",
    }
    page = browser.post("/admin/accounts/apikey/add/", form, follow=True)
    (text,) = re.findall(r"cyx_[0-9a-f]{12}_[0-9a-f]{64}", page.content.decode())
    key = keys.authenticate(text)
    assert key is not None
    assert key.owner == owner.user
    assert key.scopes == ["infer"]
    assert ApiKey.objects.filter(name="from the admin").count() == 1
    for path in ("/admin/accounts/apikey/", f"/admin/accounts/apikey/{key.pk}/change/"):
        again = browser.get(path)
        assert again.status_code == 200
        assert text.rsplit("_", 1)[1] not in again.content.decode()
        assert key.digest not in again.content.decode()


def test_revoking_is_an_action_and_is_kept_in_the_history(browser, owner):
    key = ApiKey.objects.get(owner=owner.user)
    page = browser.post("/admin/accounts/apikey/", {"action": "revoke", "_selected_action": [key.pk]}, follow=True)
    assert "1 revoked." in page.content.decode()
    key.refresh_from_db()
    assert key.revoked_at is not None
    assert LogEntry.objects.get(object_id=key.pk).get_change_message() == "Revoked"


def test_a_key_is_neither_edited_nor_deleted(browser, owner):
    key = ApiKey.objects.get(owner=owner.user)
    address = f"/admin/accounts/apikey/{key.pk}"
    assert browser.post(f"{address}/change/", {"name": "other", "scopes": ["infer"]}).status_code == 403
    assert browser.post(f"{address}/delete/", {"post": "yes"}).status_code == 403
    key.refresh_from_db()
    assert key.name == "test"


def test_lists_filter_by_state_and_make_few_queries(browser, owner, django_assert_max_num_queries):
    for number in range(20):
        keys.issue(user=owner.user, name=f"key {number}")
    keys.revoke(ApiKey.objects.get(name="key 3"))
    with django_assert_max_num_queries(8):
        page = browser.get("/admin/accounts/apikey/?state=revoked").content.decode()
    assert "key 3" in page
    assert "key 4" not in page
    assert browser.get("/admin/accounts/user/").status_code == 200


def test_people_who_are_not_staff_do_not_enter(owner):
    client = Client()
    client.force_login(owner.user)
    assert client.get("/admin/accounts/apikey/").status_code == 302


@pytest.mark.parametrize(
    ("count", "words"),
    [
        *((0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (-1536, "-1.5 KiB"), (101_502_156, "96.8 MiB")),
        *((25_232_932_864, "23.5 GiB"), (2**50, "1024.0 TiB"), (None, "–")),
    ],
)
def test_sizes_are_said_as_the_command_line_says_them(count, words):
    assert staff_admin.size_words(count) == words
    if count is not None and count >= 0:
        assert output.size(count) == words
