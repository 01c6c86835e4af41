"""`cyxwiz ssh-keys …`, against a real server."""

from __future__ import annotations

import pytest

from accounts.models import SshKey
from terminal.ssh_gateway import host_key
from tests.accounts.test_ssh_keys import ed

pytestmark = pytest.mark.django_db(transaction=True)


def test_keys_are_added_listed_and_deleted(cyxwiz, logged_in, tmp_path):
    file = tmp_path / "id.pub"
    file.write_text(ed() + "\n")
    added = cyxwiz("ssh-keys", "add", str(file))
    key = SshKey.objects.get()
    assert (added.code, added.out) == (0, f"somebody@laptop is registered: {key.fingerprint}\n")
    assert key.fingerprint in cyxwiz("ssh-keys", "ls").out
    assert cyxwiz("ssh-keys", "ls", "--json").json[0]["id"] == key.pk
    again = cyxwiz("ssh-keys", "add", str(file))
    assert again.code != 0
    assert "registered already" in again.err
    assert cyxwiz("ssh-keys", "rm", str(key.pk)).out == f"Key {key.pk} is deleted.\n"
    assert not SshKey.objects.exists()


def test_a_private_key_does_not_leave_the_machine(cyxwiz, logged_in, tmp_path):
    file = tmp_path / "id"
    file.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    refused = cyxwiz("ssh-keys", "add", str(file))
    assert refused.code != 0
    assert "is a private key. Give the .pub file beside it." in refused.err
    assert "cannot be read" in cyxwiz("ssh-keys", "add", str(tmp_path / "nothing")).err


def test_the_gateway_is_a_line_for_known_hosts(cyxwiz, logged_in, settings, tmp_path):
    settings.CYXWIZ_HOME = tmp_path
    assert "No ssh gateway was ever started here" in cyxwiz("ssh-keys", "known-hosts").err
    line = host_key.ensure()
    settings.SSH_GATEWAY_PORT = 2222
    assert cyxwiz("ssh-keys", "known-hosts").out == f"[localhost]:2222 {line}\n"
    settings.SSH_GATEWAY_PORT = 22
    assert cyxwiz("ssh-keys", "known-hosts").out == f"localhost {line}\n"
