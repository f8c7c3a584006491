"""Who may come in, and who shares caches with whom."""

import pytest

from cluster.errors import StartUpError
from cluster.settings import load_settings
from router.errors import AuthenticationError
from router.settings import RouterSettings
from router.tenants.keys import Tenant, authenticator

KEYS = {"alice": ("key-a", "key-of-tomorrow"), "bob": ("key-b",), "zoë": ("schlüssel", "鍵")}
authenticate = authenticator(KEYS)


def names(settings):
    """Scopes by tenant, as these settings have them."""
    ask = authenticator(settings.api_keys, settings.share_cache, settings.hide_cache_headers)
    tenants = [ask(b"Bearer " + keys[0].encode()) for keys in settings.api_keys.values()]
    return {tenant.name: (tenant.scope, tenant.sees_caches) for tenant in tenants}


@pytest.mark.parametrize("header", [None, b"", b"Bearer anything", b"\xff"])
def test_open_access_takes_everybody(header):
    """Without keys there is one tenant without a name, whose cache is nobody's own."""
    assert authenticator({})(header) == Tenant("", "", sees_caches=True)
    assert authenticator({}, hidden={"*"})(header) == Tenant("", "", sees_caches=False)


@pytest.mark.parametrize(
    ("header", "tenant"),
    [
        (b"Bearer key-a", "alice"),
        (b"Bearer key-of-tomorrow", "alice"),
        (b"bearer key-b", "bob"),
        (b"BEARER  key-b ", "bob"),
        ("Bearer schlüssel".encode(), "zoë"),
        ("Bearer schlüssel".encode("latin-1"), "zoë"),
        ("Bearer 鍵".encode(), "zoë"),
    ],
)
def test_key_leads_to_its_tenant(header, tenant):
    """All keys of a tenant do, in the bytes that clients make of them; the scheme's case and spaces do not
    matter."""
    assert authenticate(header).name == tenant


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, "No API key"),
        (b"", "No API key"),
        (b"Bearer", "No API key"),
        (b"Bearer ", "No API key"),
        (b"Bearer key-c", "Incorrect API key"),
        (b"Bearer key-a key-b", "Incorrect API key"),
        (b"Bearer key-a,key-b", "Incorrect API key"),
        (b"Basic key-a", "Incorrect API key"),
        (b"Bearer k\xe9y", "Incorrect API key"),
        (b"Bearer \xff\x00\x80", "Incorrect API key"),
        (b"Bearer " + b"x" * 60_000, "Incorrect API key"),
    ],
)
def test_others_stay_outside(header, message):
    """A missing key and a wrong one are told apart, and the wrong one is not repeated."""
    with pytest.raises(AuthenticationError, match=message) as caught:
        authenticate(header)
    assert caught.value.status == 401
    assert "key-" not in caught.value.message


def test_keys_are_read_from_the_environment(monkeypatch):
    """Several keys of one tenant, spaces and empty places between commas, and a key with an equals sign."""
    monkeypatch.setenv("WARMROUTE_API_KEYS", " alice = s3cret, bob=b=b== ,,alice=two ")
    settings = load_settings(RouterSettings)
    assert settings.api_keys == {"alice": ("s3cret", "two"), "bob": ("b=b==",)}
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("alice=hidden,bob=hidden", "alice and bob have the same key"),
        ("alice=hiddené,bob=hiddenÃ©", "alice and bob have the same key"),
        ("alice", "expected NAME=VALUE"),
        ("alice=", "expected NAME=VALUE"),
        ("=hidden", "expected NAME=VALUE"),
        ("alice=hidden\nhidden", "a key of alice"),
        ("alice=hidden\udcff", "a key of alice"),
        ("a" * 65 + "=hidden", "at most 64 characters"),
    ],
)
def test_bad_keys_stop_the_start(value, said):
    """With the reason, and never with the key: errors are logged."""
    with pytest.raises(StartUpError, match=said) as caught:
        load_settings(RouterSettings, api_keys=value)
    assert "WARMROUTE_API_KEYS" in str(caught.value)
    assert "hidden" not in str(caught.value)
    with pytest.raises(ValueError, match=said) as direct:
        RouterSettings(api_keys=value)
    assert "hidden" not in str(direct.value)


TENANTS = "a=1,b=2,c=3,d=4"


@pytest.mark.parametrize(
    ("share", "scopes"),
    [
        ("", "abcd"),
        ("c+b", "accd"),
        ("a+b, c+d", "aacc"),
        ("*", ["", "", "", ""]),
    ],
)
def test_tenants_share_what_they_are_told_to(share, scopes):
    """Each has a scope of its own; a group that of its first one; all together have none."""
    found = names(load_settings(RouterSettings, api_keys=TENANTS, share_cache=share))
    assert [scope for scope, _ in found.values()] == list(scopes)


@pytest.mark.parametrize(("hide", "seeing"), [("", "abcd"), ("a, c", "bd"), ("*", "")])
def test_headers_can_be_hidden_by_tenant(hide, seeing):
    """From some, or from everybody."""
    found = names(load_settings(RouterSettings, api_keys=TENANTS, hide_cache_headers=hide))
    assert "".join(name for name, (_, sees) in found.items() if sees) == seeing


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("share_cache", "a+x", "no tenant x"),
        ("share_cache", "a+*", r"no tenant \*"),
        ("share_cache", "a+b,b+c", "b: a tenant belongs to one group"),
        ("hide_cache_headers", "x,a", "no tenant x"),
    ],
)
def test_tenants_without_keys_stop_the_start(setting, value, said):
    """A misspelt name would share, or show, what it should not."""
    with pytest.raises(StartUpError, match=said) as caught:
        load_settings(RouterSettings, api_keys=TENANTS, **{setting: value})
    assert f"WARMROUTE_{setting.upper()}" in str(caught.value)
