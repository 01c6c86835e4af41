"""Public keys of an account: which are taken, whose they are, and what staff see of them."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from django.test import Client

from accounts import keys, ssh_keys
from accounts.models import SshKey
from tests.cast import Person

KEYS = "/api/v1/ssh-keys/"


def line(private: object, comment: str = "somebody@laptop") -> str:
    public = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)  # type: ignore[attr-defined]
    return f"{public.decode()} {comment}".strip()


def ed() -> str:
    return line(ed25519.Ed25519PrivateKey.generate())


@pytest.mark.parametrize(
    ("private", "kind"),
    [
        (ed25519.Ed25519PrivateKey.generate(), "ssh-ed25519"),
        (ec.generate_private_key(ec.SECP256R1()), "ecdsa-sha2-nistp256"),
        (ec.generate_private_key(ec.SECP521R1()), "ecdsa-sha2-nistp521"),
        (rsa.generate_private_key(65537, 3072), "ssh-rsa"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_keys_that_are_taken(owner: Person, private: object, kind: str) -> None:
    answer = owner.post(KEYS, {"public_key": line(private)})
    assert answer.status_code == 201, answer.content
    made = answer.json()
    assert (made["type"], made["name"]) == (kind, "somebody@laptop")
    assert made["fingerprint"].startswith("SHA256:")
    assert owner.get(KEYS).json()["results"] == [made]
    named = owner.post(KEYS, {"public_key": ed(), "name": "work"}).json()
    assert named["name"] == "work"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "public_key"),
        ("nonsense", "no type of key"),
        ("ssh-ed25519", "damaged"),
        ("ssh-ed25519 AAAA", "damaged"),
        ("ssh-ed25519 AAAA…", "damaged"),
        (ed().replace("ssh-ed25519", "ssh-rsa"), "damaged"),
        (ed() + "\n" + ed(), "one line"),
        (line(rsa.generate_private_key(65537, 2048)), "2048 bits"),
        ("ssh-dss AAAA", "no type of key"),
        ("sk-ssh-ed25519@openssh.com AAAA", "no type of key"),
        ("ssh-ed25519-cert-v01@openssh.com AAAA", "no type of key"),
        ('command="/bin/sh" ' + ed(), "no type of key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----", "private key"),
        ("ssh-ed25519 " + "A" * 20_000, "one line"),
    ],
)
def test_keys_that_are_refused_with_the_reason(owner: Person, text: str, why: str) -> None:
    answer = owner.post(KEYS, {"public_key": text})
    assert answer.status_code == 400
    assert why in answer.json()["detail"]
    assert not SshKey.objects.exists()


def test_a_key_belongs_to_one_account(owner: Person, outsider: Person) -> None:
    text = ed()
    assert owner.post(KEYS, {"public_key": text}).status_code == 201
    for person in (owner, outsider):
        again = person.post(KEYS, {"public_key": text.replace("somebody", "else")})
        assert again.status_code == 409
        assert "one account only" in again.json()["detail"]
    assert SshKey.objects.count() == 1


def test_a_key_is_its_owners_alone(owner: Person, team_mate: Person, outsider: Person, client: Client) -> None:
    made = owner.post(KEYS, {"public_key": ed()}).json()
    where = f"{KEYS}{made['id']}/"
    for person in (team_mate, outsider):
        assert person.get(KEYS).json()["results"] == []
        assert person.get(where).status_code == 404
        assert person.delete(where).status_code == 404
    assert client.get(KEYS).status_code in (401, 403)
    assert client.post(KEYS, {"public_key": ed()}).status_code in (401, 403)
    assert owner.get(where).json() == made
    assert owner.delete(where).status_code == 204
    assert owner.get(KEYS).json()["results"] == []


def test_an_api_key_needs_the_scope(owner: Person) -> None:
    """An ssh key outlives the API key that added it, so no other scope may add one."""
    others = [scope for scope in keys.scopes.ALL if not scope.startswith("ssh-keys")]
    _, text = keys.issue(user=owner.user, name="others", wanted=others)
    browser = Client(headers={"Authorization": f"Bearer {text}"})
    assert browser.get(KEYS).status_code == 403
    assert browser.post(KEYS, {"public_key": ed()}, content_type="application/json").status_code == 403


def test_a_key_opens_its_own_account_while_that_is_active(owner: Person, outsider: Person) -> None:
    text = ed()
    key = ssh_keys.add(user=owner.user, text=text)
    assert ssh_keys.find("olga", text) == key
    for name in ("otto", "nobody", ""):
        assert ssh_keys.find(name, text) is None
    assert ssh_keys.find("olga", ed()) is None
    owner.user.is_active = False
    owner.user.save()
    assert ssh_keys.find("olga", text) is None


def test_staff_add_and_delete_keys_in_the_admin(admin: Person, owner: Person) -> None:
    browser = Client()
    browser.force_login(admin.user)
    text = ed()
    form = {"owner": owner.user.pk, "name": "laptop", "line": text}
    page = browser.post("/admin/accounts/sshkey/add/", form, follow=True)
    assert page.status_code == 200
    key = SshKey.objects.get()
    assert (key.owner, key.name, key.public_key) == (owner.user, "laptop", text.split()[1])
    again = browser.post("/admin/accounts/sshkey/add/", form)
    assert "one account only" in again.content.decode()
    assert "damaged" in browser.post("/admin/accounts/sshkey/add/", form | {"line": "ssh-rsa x"}).content.decode()
    assert key.fingerprint in browser.get("/admin/accounts/sshkey/").content.decode()
    assert browser.get(f"/admin/accounts/sshkey/{key.pk}/change/").status_code == 200
    assert browser.post(f"/admin/accounts/sshkey/{key.pk}/change/", {"name": "other"}).status_code == 403
    browser.post(f"/admin/accounts/sshkey/{key.pk}/delete/", {"post": "yes"})
    assert not SshKey.objects.exists()


def test_a_list_makes_few_queries(owner: Person, django_assert_max_num_queries) -> None:
    for _ in range(10):
        ssh_keys.add(user=owner.user, text=ed())
    with django_assert_max_num_queries(6):
        assert len(owner.get(KEYS).json()["results"]) == 10


def test_no_more_than_fifty(owner: Person) -> None:
    for _ in range(ssh_keys.PER_USER):
        ssh_keys.add(user=owner.user, text=ed())
    refused = owner.post(KEYS, {"public_key": ed()})
    assert refused.status_code == 409
    assert "50 ssh keys" in refused.json()["detail"]
