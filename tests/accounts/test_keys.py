"""API keys: shown once, stored as a digest, limited, revocable."""

from datetime import timedelta

import pytest
from django.utils import timezone

from accounts import keys
from accounts.models import ApiKey
from protocol import names
from protocol.errors import BadRequest


def test_a_key_authenticates_until_it_is_revoked(owner, empty_redis):
    row, text = keys.issue(user=owner.user, name="laptop")
    assert keys.authenticate(text) == row
    keys.revoke(row)
    assert keys.authenticate(text) is None


def test_only_a_digest_is_stored(owner):
    row, text = keys.issue(user=owner.user, name="laptop")
    secret = text.rsplit("_", 1)[1]
    assert secret not in str(ApiKey.objects.filter(pk=row.pk).values().get())
    assert secret not in repr(row)


def test_an_expired_key_and_an_inactive_user_are_refused(owner):
    _, text = keys.issue(user=owner.user, name="old", expires_at=timezone.now() - timedelta(seconds=1))
    assert keys.authenticate(text) is None
    owner.user.is_active = False
    owner.user.save()
    assert keys.authenticate(owner.key) is None


@pytest.mark.parametrize(
    "text", ["", "cyx_", "cyx_1_2", "cyxn_000000000000_" + "0" * 64, "cyx_000000000000_" + "0" * 64]
)
def test_nonsense_is_refused(db, text):
    assert keys.authenticate(text) is None


def test_unknown_scopes_are_named(owner):
    with pytest.raises(BadRequest, match="models:burn"):
        keys.issue(user=owner.user, name="x", wanted=["models:burn"])


@pytest.mark.django_db(transaction=True)
def test_gateways_hear_of_new_and_revoked_keys(owner, empty_redis):
    row, _ = keys.issue(user=owner.user, name="laptop")
    assert empty_redis.hexists(names.KEYS, row.digest)
    keys.revoke(row)
    assert not empty_redis.hexists(names.KEYS, row.digest)


def test_what_redis_lost_is_published_again_and_what_ended_is_withdrawn(owner, outsider, empty_redis):
    keys.publish_all()
    assert empty_redis.hlen(names.KEYS) == 2
    empty_redis.flushall()
    outsider.user.is_active = False
    outsider.user.save()
    keys.publish_all()
    assert empty_redis.hkeys(names.KEYS) == [ApiKey.objects.get(owner=owner.user).digest.encode()]
