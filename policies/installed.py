"""Policies that other packages bring along, as entry points of the group ``warmroute.policies``.

A package declares one in its ``pyproject.toml``, by the name under which it is chosen:

    [project.entry-points."warmroute.policies"]
    my-policy = "my_package.routing:my_policy"
"""

from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line imports the error, and should not wait for numpy
    from policies.types import Policy

GROUP = "warmroute.policies"


class InstalledPolicyError(Exception):
    """A policy of an installed package cannot be used. The message names it and says what to do."""


def installed_policies(taken: Collection[str]) -> dict[str, Policy]:
    """The policies of other packages, by name. Raises `InstalledPolicyError` for one that cannot be loaded or
    whose name is ``taken``.
    """
    found: dict[str, Policy] = {}
    for point in entry_points(group=GROUP):
        package = point.dist.name if point.dist else "an unknown package"
        policy = f"policy {point.name!r} of {package} ({point.value})"
        if point.name in taken or point.name in found:
            raise InstalledPolicyError(f"{policy}: there is another of this name; rename or uninstall one")
        try:
            loaded = point.load()
        except Exception as error:  # whatever that package raises
            raise InstalledPolicyError(
                f"{policy} cannot be loaded: {error!r}; mend or uninstall {package}"
            ) from error
        if not callable(loaded):
            raise InstalledPolicyError(f"{policy} is no function; mend or uninstall {package}")
        found[point.name] = loaded
    return found
