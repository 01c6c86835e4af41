"""The pages at /terminal/: who sees what on them, and that each action keeps to the rules of the API."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.contrib.sessions.models import Session
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from nodes.models import Node
from protocol import names
from terminal import doors, urls
from terminal.models import AuditEvent, TerminalSession
from tests.cast import Person
from tests.terminal.conftest import POLICY, SESSIONS, TerminalMachine, grant, opened

pytestmark = pytest.mark.django_db(transaction=True)

PAGE = "/terminal/"


def browser(person: Person) -> Client:
    client = Client()
    client.force_login(person.user)
    return client


def text(answer) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.content.decode()))


@pytest.mark.parametrize("entry", urls.urlpatterns, ids=lambda entry: entry.name)
def test_every_page_is_for_who_is_signed_in(entry, machine, owner):
    arguments = {"id": opened(owner)["id"], "name": "box"}
    address = reverse(entry.name, kwargs={name: arguments[name] for name in entry.pattern.converters})
    for method in ("get", "post"):
        answer = getattr(Client(), method)(address)
        assert (answer.status_code, answer.url) == (302, f"/login/?next={address}")


def test_who_is_no_staff_signs_in_comes_where_they_wanted_and_out_again(owner, machine):
    client = Client(enforce_csrf_checks=True)
    page = client.get(f"/login/?next={PAGE}")
    fields = {"username": "olga", "password": "correct horse battery", "next": PAGE}
    assert client.post("/login/", fields).status_code == 403
    fields["csrfmiddlewaretoken"] = re.search('name="csrfmiddlewaretoken" value="([^"]+)"', page.content.decode())[1]
    assert "correct" in text(client.post("/login/", fields | {"password": "wrong"}))
    assert client.post("/login/", fields | {"next": "https://evil.example/"}).url == "/"
    assert client.get("/", follow=True).redirect_chain == [(PAGE, 302)]
    assert client.post("/logout/").status_code == 403
    token = client.cookies["csrftoken"].value
    assert client.post("/logout/", {"csrfmiddlewaretoken": token}).url == "/login/"
    assert client.get(PAGE).status_code == 302


def test_when_websockets_are_told_of_a_logout_the_browsers_session_is_gone(owner, monkeypatch):
    client = browser(owner)
    session = Session.objects.filter(pk=client.session.session_key)
    told = []
    monkeypatch.setattr(doors, "rights_changed", lambda user_id: told.append((user_id, session.exists())))
    client.post("/logout/")
    assert told == [(owner.user.pk, False)]


def test_the_owner_opens_comes_back_and_ends(owner, machine):
    client = browser(owner)
    assert "Open a terminal" in text(client.get(PAGE))
    answer = client.post(f"{PAGE}nodes/box/", {"reason": "to <b>look</b>"})
    session = TerminalSession.objects.get()
    assert answer.url == f"{PAGE}{session.pk}/"
    assert (session.reason, session.state, session.api_key) == ("to <b>look</b>", "opening", None)
    page = client.get(PAGE).content.decode()
    assert "to &lt;b&gt;look&lt;/b&gt;" in page
    assert client.get(answer.url).status_code == 200
    ended = client.post(f"{PAGE}{session.pk}/end", follow=True)
    assert "ended." in text(ended)
    session.refresh_from_db()
    assert (session.state, session.end_reason) == ("ended", "olga ended it.")
    assert "ended already" in text(client.post(f"{PAGE}{session.pk}/end", follow=True))


def test_the_page_before_says_how_long_it_lives(owner, machine):
    client = browser(owner)
    assert "after 15 minutes without input, at the latest after 8 hours." in text(client.get(f"{PAGE}nodes/box/"))
    owner.patch(POLICY, {"idle_seconds": 90, "keep_seconds": 0})
    page = text(client.get(f"{PAGE}nodes/box/"))
    assert "after 90 seconds without input" in page
    assert "When you close the page the shell ends." in page


def test_no_secret_is_in_a_page_and_nothing_is_done_by_following_a_link(owner, machine):
    client = browser(owner)
    session = opened(owner)
    before = AuditEvent.objects.count()
    for address in (PAGE, f"{PAGE}nodes/box/", f"{PAGE}{session['id']}/", f"{PAGE}{session['id']}/recording"):
        assert session["ticket"] not in client.get(address).content.decode()
    for action in ("approve", "refuse", "end"):
        assert client.get(f"{PAGE}{session['id']}/{action}").status_code == 405
    assert AuditEvent.objects.count() == before
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(owner.user)
    for address in (f"{PAGE}nodes/box/", f"{PAGE}{session['id']}/end"):
        assert strict.post(address).status_code == 403


def test_what_is_over_says_how_long_it_was_open(owner, machine):
    opened(owner)
    now = timezone.now()
    TerminalSession.objects.update(state="ended", opened_at=now - timedelta(minutes=7), ended_at=now)
    assert re.search(r"\d, 7.minutes", text(browser(owner).get(PAGE)))


def test_that_a_recording_is_gone_or_still_grows_is_said(owner, machine):
    id = opened(owner)["id"]
    client = browser(owner)
    assert "The terminal goes on" in text(client.get(f"{PAGE}{id}/recording"))
    now = timezone.now()
    TerminalSession.objects.update(state="ended", opened_at=now, ended_at=now)
    assert "The terminal goes on" not in text(client.get(f"{PAGE}{id}/recording"))
    assert "Its recording was deleted" not in text(client.get(PAGE))
    TerminalSession.objects.update(recording_deleted_at=now)
    assert "Its recording was deleted after its time." in text(client.get(PAGE))


def test_an_outsider_finds_nothing(owner, outsider, machine):
    session = opened(owner, reason="secret reason")
    client = browser(outsider)
    page = client.get(PAGE).content.decode()
    assert "box" not in page
    assert "secret reason" not in page
    for address in ("nodes/box/", f"{session['id']}/", f"{session['id']}/recording"):
        assert client.get(PAGE + address).status_code == 404
    for address in ("nodes/box/", *(f"{session['id']}/{action}" for action in ("approve", "refuse", "end"))):
        assert client.post(PAGE + address).status_code == 404
    assert TerminalSession.objects.get().state == "opening"


def test_a_watcher_sees_it_and_can_neither_end_it_nor_play_it(owner, team_mate, machine):
    grant(owner, team_mate, "observer")
    session = opened(owner)
    client = browser(team_mate)
    page = client.get(PAGE).content.decode()
    assert "Watch" in page
    assert f"{session['id']}/end" not in page
    assert "Its owner can grant you terminals on it." in page
    assert 'id="end"' not in client.get(f"{PAGE}{session['id']}/").content.decode()
    assert client.get(f"{PAGE}{session['id']}/recording").status_code == 404
    assert "Only who opened it" in text(client.post(f"{PAGE}{session['id']}/end", follow=True))
    refused = client.post(f"{PAGE}nodes/box/")
    assert refused.status_code == 403
    assert TerminalSession.objects.get().state == "opening"


def test_a_second_person_approves_or_refuses(owner, team_mate, machine):
    grant(owner, team_mate, "operator")
    owner.patch(POLICY, {"approval_required": True, "reason_required": True})
    asker, approver = browser(team_mate), browser(owner)
    without = asker.post(f"{PAGE}nodes/box/")
    assert without.status_code == 400
    assert "asks for a reason" in text(without)
    for verb, state in (("approve", "opening"), ("refuse", "ended")):
        id = asker.post(f"{PAGE}nodes/box/", {"reason": "disk is full"}).url.split("/")[2]
        assert f"{id}/{verb}" not in asker.get(PAGE).content.decode()
        assert "Only an owner" in text(asker.post(f"{PAGE}{id}/{verb}", follow=True))
        page = approver.get(PAGE)
        assert "tom asks for a terminal on box" in text(page)
        assert f"{id}/{verb}" in page.content.decode()
        approver.post(f"{PAGE}{id}/{verb}")
        assert TerminalSession.objects.get(pk=id).state == state
    assert AuditEvent.objects.filter(what="approved", user="olga").count() == 1
    assert "olga refused it." in text(asker.get(PAGE))


def test_a_node_that_gives_none_now_says_why(owner, machine, empty_redis):
    empty_redis.flushall()
    client = browser(owner)
    assert "No recorder runs" in text(client.get(PAGE))
    refused = client.post(f"{PAGE}nodes/box/")
    assert refused.status_code == 503
    assert "record_terminals" in text(refused)
    Node.objects.update(state=Node.State.OFFLINE)
    empty_redis.set(names.TERMINAL_RECORDER, "1")
    assert "box is offline." in text(client.get(PAGE))
    assert "box is offline." in text(client.get(f"{PAGE}nodes/box/"))
    assert client.post(f"{PAGE}nodes/box/").status_code == 409
    assert TerminalSession.objects.count() == 0


def test_staff_reach_the_playback_of_every_session_by_the_admin(owner, admin, outsider, machine):
    session = opened(owner)
    page = browser(admin).get(f"{PAGE}{session['id']}/recording").content.decode()
    assert f'data-source="/admin/terminal/terminalsession/{session["id"]}/recording"' in page
    page = browser(owner).get(f"{PAGE}{session['id']}/recording").content.decode()
    assert f'data-source="{SESSIONS}{session["id"]}/recording"' in page
    assert "does not prove" in page


def test_the_pages_say_what_a_browser_may_load(owner, admin, machine: TerminalMachine):
    session = opened(owner)
    client = browser(owner)
    for address in (PAGE, f"{PAGE}nodes/box/", "/login/", "/admin/login/", "/api/v1/nodes/"):
        policy = client.get(address)["Content-Security-Policy"]
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
    for address in (f"{PAGE}{session['id']}/", f"{PAGE}{session['id']}/recording"):
        policy = client.get(address)["Content-Security-Policy"]
        assert "script-src 'self';" in policy
        assert "connect-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy


def test_a_node_in_the_admin_leads_to_a_terminal_for_who_may_open_one(owner, admin, machine):
    page = f"/admin/nodes/node/{machine.node.pk}/change/"
    assert "Open terminal" not in text(browser(admin).get(page))
    grant(owner, admin, "operator")
    assert f'href="{PAGE}nodes/box/">Open terminal' in browser(admin).get(page).content.decode()


def test_the_page_asks_the_database_as_often_for_many_sessions_as_for_one(
    owner, machine, django_assert_max_num_queries
):
    client = browser(owner)
    for _ in range(12):
        opened(owner)
    TerminalSession.objects.filter(pk__in=TerminalSession.objects.values("pk")[:4]).update(state="ended")
    with django_assert_max_num_queries(12):
        assert client.get(PAGE).status_code == 200
