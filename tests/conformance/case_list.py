"""The whole list."""

from tests.conformance.body_cases import add_bodies
from tests.conformance.case import Case, Cases
from tests.conformance.generation_cases import add_generation
from tests.conformance.other_cases import add_others
from tests.conformance.pooling_cases import add_pooling


def all_cases() -> list[Case]:
    """Every request, in the order in which they are sent."""
    cases = Cases()
    add_generation(cases)
    add_bodies(cases)
    add_others(cases)
    add_pooling(cases)
    return cases.found
