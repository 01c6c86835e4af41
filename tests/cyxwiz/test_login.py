"""Where the server's address and the key come from, and that the key stays hidden."""

from __future__ import annotations

import stat
import traceback

import pytest

from accounts import keys
from cyxwiz import Client, config
from cyxwiz.errors import BadInput, CyxwizApiError, CyxwizError, NotConfigured
from cyxwiz.secret import ApiKey
from tests.with_services import free_port

OTHER = "http://other.example:8080"


def test_login_stores_the_key_for_its_owner_only(cyxwiz, server, owner, config_home):
    done = cyxwiz("login", "--url", server + "/", "--key-stdin", stdin=owner.key + "\n")
    file = config_home / "cyxwiz" / "config.toml"
    assert (done.code, stat.S_IMODE(file.stat().st_mode)) == (0, 0o600)
    assert [path.name for path in file.parent.iterdir()] == ["config.toml"]
    assert owner.key in file.read_text()
    assert owner.key not in done.out + done.err
    assert cyxwiz("models", "ls", "--json").json == []


def test_login_takes_the_key_from_the_environment(cyxwiz, server, owner, monkeypatch):
    monkeypatch.setenv("CYXWIZ_API_KEY", owner.key)
    done = cyxwiz("login", "--url", server, "--json")
    assert (done.code, done.json["url"]) == (0, server)
    monkeypatch.delenv("CYXWIZ_API_KEY")
    assert cyxwiz("ps").code == 0


def test_login_keeps_nothing_that_does_not_work(cyxwiz, server, owner, config_home):
    wrong = owner.key[:-4] + "0000"
    refused = cyxwiz("login", "--url", server, "--key-stdin", stdin=wrong)
    assert refused.code == 3
    assert "not valid" in refused.err
    assert "request " in refused.err
    unreachable = f"http://127.0.0.1:{free_port()}"
    nobody = cyxwiz("login", "--url", unreachable, "--key-stdin", stdin=owner.key)
    assert (nobody.code, unreachable in nobody.err) == (1, True)
    for url in (
        "127.0.0.1:8080",
        "ftp://x",
        "http://",
        "http://x:port",
        "http://me:secret@x",
        "http://a b",
        "http://[::1",
    ):
        assert cyxwiz("login", "--url", url, "--key-stdin", stdin=owner.key).code == 2, url
    assert cyxwiz("login", "--url", server, "--key-stdin", stdin="\n").code == 3
    assert cyxwiz("login", "--url", server).code == 2  # no terminal to ask
    assert not (config_home / "cyxwiz").exists()


def test_a_key_with_few_scopes_can_log_in(cyxwiz, server, owner):
    _, key = keys.issue(user=owner.user, name="only asks", wanted=["infer"])
    assert cyxwiz("login", "--url", server, "--key-stdin", stdin=key).code == 0
    refused = cyxwiz("ps")
    assert (refused.code, "deployments:read" in refused.err) == (3, True)


def test_there_is_no_option_for_the_key(cyxwiz, owner):
    assert cyxwiz("login", "--url", OTHER, "--key", owner.key).code == 2


def test_a_key_over_plain_http_to_elsewhere_is_warned_of(cyxwiz, owner):
    done = cyxwiz("login", "--url", f"http://127.0.0.2:{free_port()}", "--key-stdin", stdin=owner.key)
    assert "not encrypted" in done.err


def test_flag_beats_environment_beats_file(monkeypatch):
    file, environment, flag = "http://file:1", "http://environment:1", "http://flag:1"
    with pytest.raises(NotConfigured, match="cyxwiz login"):
        config.load()
    config.store(file, ApiKey("cyx_file"))
    assert config.load() == config.Config(file, ApiKey("cyx_file"))
    monkeypatch.setenv("CYXWIZ_URL", environment)
    monkeypatch.setenv("CYXWIZ_API_KEY", "cyx_environment")
    assert config.load() == config.Config(environment, ApiKey("cyx_environment"))
    assert config.load(url=flag, key="cyx_flag") == config.Config(flag, ApiKey("cyx_flag"))


def test_a_stored_key_never_goes_to_another_server(cyxwiz):
    config.store("http://file:1", ApiKey("cyx_file"))
    with pytest.raises(NotConfigured, match=OTHER):
        config.load(url=OTHER)
    assert cyxwiz("--url", OTHER, "ps").code == 3
    config.store(OTHER, ApiKey("cyx_other"))
    assert config.load(url="http://file:1").key == ApiKey("cyx_file")
    assert config.load() == config.Config(OTHER, ApiKey("cyx_other"))


@pytest.mark.parametrize("text", ["url = ", "url = 3", "keys = 3", "[keys]\nx = 3", "\xff"])
def test_a_broken_file_is_named(config_home, cyxwiz, text):
    file = config_home / "cyxwiz" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_bytes(text.encode("latin-1"))
    broken = cyxwiz("ps")
    assert (broken.code, str(file) in broken.err) == (3, True)


def test_a_folder_that_cannot_be_written_is_named(config_home, cyxwiz, server, owner):
    config_home.write_text("in the way")
    done = cyxwiz("login", "--url", server, "--key-stdin", stdin=owner.key)
    assert (done.code, str(config_home) in done.err) == (3, True)


def test_the_key_shows_itself_nowhere(server, owner):
    secret = owner.key.rsplit("_", 1)[1]
    config.store(server, ApiKey(owner.key))
    shown = [repr(config.load()), repr(config.read_file()), str(ApiKey(owner.key))]
    dead = f"http://127.0.0.1:{free_port()}"
    for url, call in [
        (server, lambda client: client.deployments.get("nosuch")),
        (server, lambda client: client.predict("nosuch", {})),
        (server, lambda client: client.jobs.get("x\ny")),
        (dead, lambda client: list(client.models.list())),
    ]:
        with Client(url, owner.key, retry_delays=[]) as client, pytest.raises(CyxwizError) as caught:
            call(client)
        shown += [repr(client), repr(client._transport), repr(caught.value), _collected(caught.value)]
        assert caught.value.__context__ is None
    assert "nosuch" in "".join(shown)
    assert secret not in "".join(shown)


def _collected(error: BaseException) -> str:
    """As error collectors write it, with the variables of every frame; those of this file know the key anyway."""
    trace = error.__traceback__
    while trace and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    assert trace
    return "".join(traceback.TracebackException(type(error), error, trace, capture_locals=True).format())


def test_a_malformed_key_is_not_quoted(server):
    with pytest.raises(NotConfigured) as caught:
        Client(server, "cyx_secret\nX-Other: header")
    assert "secret" not in str(caught.value)


def test_an_unexpected_fault_is_short_and_hides_keys(cyxwiz, logged_in, owner, monkeypatch):
    def fails(*_: object) -> None:
        raise RuntimeError(f"oh no, {owner.key}")

    monkeypatch.setattr("cyxwiz.deployments.Deployments.list", fails)
    done = cyxwiz("ps")
    assert (done.code, "oh no" in done.err) == (1, True)
    assert owner.key not in done.err


def test_errors_know_what_the_server_said(server, owner):
    with Client(server, owner.key) as client, pytest.raises(CyxwizApiError) as caught:
        client.deployments.get("nosuch")
    assert (caught.value.status, caught.value.code) == (404, "not_found")
    assert caught.value.request_id
    with pytest.raises(BadInput):
        Client("nonsense", "key")
