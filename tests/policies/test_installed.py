"""Policies of other packages: found by their entry points, and refused with a clear message."""

from importlib.metadata import EntryPoint

import pytest

from policies import installed
from policies.catalog import BUILT_IN
from policies.installed import GROUP, InstalledPolicyError, installed_policies

LEAST_WORK = "policies.scoring:least_work"


@pytest.fixture
def entry(monkeypatch):
    """Plays packages that declare policies, given as name and value."""

    def declare(*declared):
        points = [EntryPoint(name, value, GROUP) for name, value in declared]
        monkeypatch.setattr(installed, "entry_points", lambda group: points if group == GROUP else [])

    return declare


def test_policies_of_other_packages_are_found(entry):
    """Under the names by which they were declared."""
    entry(("mine", LEAST_WORK), ("also-mine", "policies.scoring:lmetric"))
    found = installed_policies(BUILT_IN)
    assert found == {"mine": BUILT_IN["least-work"], "also-mine": BUILT_IN["lmetric"]}


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ([("warm", LEAST_WORK)], "'warm'.*another of this name"),
        ([("mine", LEAST_WORK), ("mine", LEAST_WORK)], "'mine'.*another of this name"),
        ([("mine", "no_such_package:policy")], "'mine'.*no_such_package:policy.*cannot be loaded"),
        ([("mine", "policies.scoring:no_such")], "'mine'.*cannot be loaded.*no_such"),
        ([("mine", "policies.scoring:PREFIX_WEIGHT")], "'mine'.*no function"),
    ],
)
def test_policy_that_cannot_be_used_is_named(entry, declared, message):
    """A name that is taken, and what cannot be loaded or called; the message says which policy it is."""
    entry(*declared)
    with pytest.raises(InstalledPolicyError, match=message):
        installed_policies(BUILT_IN)
