"""Who may come in."""

import pytest

from router.auth import api_keys, open_access
from router.errors import AuthenticationError

authenticate = api_keys({"alice": "key-a", "bob": "key-b"})


@pytest.mark.parametrize("header", [None, "", "Bearer anything"])
def test_open_access_takes_everybody(header):
    """Without keys there is one tenant without a name."""
    assert open_access(header) == ""


@pytest.mark.parametrize(
    ("header", "tenant"),
    [("Bearer key-a", "alice"), ("bearer key-b", "bob"), ("BEARER  key-b ", "bob")],
)
def test_key_leads_to_its_tenant(header, tenant):
    """The scheme's case and spaces do not matter."""
    assert authenticate(header) == tenant


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, "No API key"),
        ("", "No API key"),
        ("Bearer", "No API key"),
        ("Bearer ", "No API key"),
        ("Bearer key-c", "Incorrect API key"),
        ("Bearer key-a key-b", "Incorrect API key"),
        ("Basic key-a", "Incorrect API key"),
        ("Bearer k\xe9y", "Incorrect API key"),
    ],
)
def test_others_stay_outside(header, message):
    """A missing key and a wrong one are told apart, and the wrong one is not repeated."""
    with pytest.raises(AuthenticationError, match=message) as caught:
        authenticate(header)
    assert caught.value.status == 401
    assert "key-" not in caught.value.message
