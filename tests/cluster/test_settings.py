"""Settings: read once, and a bad one is named."""

import pytest
from pydantic import Field, field_validator

from cluster.errors import StartUpError
from cluster.settings import ClusterSettings, load_settings


class SecretSettings(ClusterSettings):
    """Settings with a value that must never be shown."""

    secret: str = Field("", repr=False)

    @field_validator("secret")
    @classmethod
    def _refuse(cls, value):
        raise ValueError("no good")


def test_environment_is_read(monkeypatch):
    """Every setting has a variable with the prefix."""
    monkeypatch.setenv("WARMROUTE_REDIS_URL", "redis://elsewhere:1/2")
    monkeypatch.setenv("WARMROUTE_HEARTBEAT_SECONDS", "0.25")
    settings = load_settings(ClusterSettings)
    assert (settings.redis_url, settings.heartbeat_seconds) == ("redis://elsewhere:1/2", 0.25)


def test_given_values_win_over_the_environment(monkeypatch):
    """An option on the command line wins; one that was not given does not count."""
    monkeypatch.setenv("WARMROUTE_DEPLOYMENT", "from-environment")
    assert load_settings(ClusterSettings, deployment="given").deployment == "given"
    assert load_settings(ClusterSettings, deployment=None).deployment == "from-environment"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("heartbeat_seconds", 0),
        ("lease_seconds", "soon"),
        ("log_level", "loud"),
        ("deployment", "two words"),
    ],
)
def test_bad_setting_is_named_with_what_was_given(monkeypatch, name, value):
    """The message holds the variable's name and the value."""
    monkeypatch.setenv(f"WARMROUTE_{name.upper()}", str(value))
    with pytest.raises(StartUpError) as caught:
        load_settings(ClusterSettings)
    assert f"WARMROUTE_{name.upper()}: " in str(caught.value)
    assert repr(str(value)) in str(caught.value)


def test_all_bad_settings_are_named_at_once():
    """Nobody has to start three times to learn of three mistakes."""
    with pytest.raises(StartUpError) as caught:
        load_settings(ClusterSettings, heartbeat_seconds=-1, lease_seconds=-1, log_level="x")
    assert str(caught.value).count("WARMROUTE_") == 3


def test_secrets_are_not_shown():
    """The message about a bad secret does not hold it."""
    with pytest.raises(StartUpError, match=r"WARMROUTE_SECRET: .*no good") as caught:
        load_settings(SecretSettings, secret="hunter2")
    assert "hunter2" not in str(caught.value)


def test_settings_cannot_change():
    """A configuration is a value."""
    with pytest.raises(ValueError, match="frozen"):
        load_settings(ClusterSettings).deployment = "other"


def test_keys_carry_the_deployment_and_a_hash_tag():
    """Deployments do not meet in Redis, and all keys of one replica live on one node of a cluster."""
    keys = load_settings(ClusterSettings, deployment="blue").keys
    names = [keys.lease("r"), keys.load("r"), keys.owned("r", 3), keys.log("r", 3)]
    assert all(name.startswith("blue:") and "{r}" in name for name in names)
    assert len(set(names)) == 4
    assert {keys.members, keys.batches, keys.memberships}.isdisjoint(names)
