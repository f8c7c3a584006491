"""The plan of faults is a pure function of the seed, and leaves enough alone."""

from collections import Counter

from tests.chaos.faults import (
    ABOUT_REDIS,
    ABOUT_ROUTER,
    AT_ONCE,
    LINKS,
    MEANWHILE,
    NUM_ENGINES,
    NUM_TOUCHED,
    NUM_UNREACHABLE,
    UNREACHABLE,
    Kind,
    plan_round,
)

ROUNDS = [plan_round(7, number) for number in range(2_000)]


def test_the_plan_depends_on_seed_and_number_alone():
    """The same seed gives the same rounds, in whatever order one asks; another seed gives others."""
    backwards = [plan_round(7, number) for number in reversed(range(2_000))]
    assert backwards[::-1] == ROUNDS
    assert [plan_round(8, number) for number in range(2_000)] != ROUNDS


def test_the_plan_stays_what_it_is():
    """A round that failed can be repeated from its seed: changing the plan is a decision, not an accident."""
    assert str(plan_round(1, 0).faults[0]) == "link_routers_engine:delay(engine4) +0.06 s for 1.18 s"


def test_every_kind_of_fault_happens():
    """All kinds, all modes of links, all engines and routers."""
    counts = Counter(fault.kind for round_ in ROUNDS for fault in round_.faults)
    assert set(counts) == set(Kind)
    assert {(f.kind, f.mode) for r in ROUNDS for f in r.faults if f.kind in LINKS} == {
        (kind, mode) for kind in LINKS for mode in ("cut", "blackhole", "delay")
    }
    assert {fault.engine for round_ in ROUNDS for fault in round_.faults} == set(range(-1, NUM_ENGINES))
    assert {fault.router for round_ in ROUNDS for fault in round_.faults} == {-1, 0, 1, 2}


def test_two_engines_are_left_alone_in_every_round():
    """Every router can serve every request: some engine, its agent and its links are sound."""
    for round_ in ROUNDS:
        touched = {fault.engine for fault in round_.faults} - {-1}
        assert len(touched) <= NUM_TOUCHED <= NUM_ENGINES - 2
        unreachable = {fault.engine for fault in round_.faults if fault.kind in UNREACHABLE}
        assert len(unreachable) <= NUM_UNREACHABLE


def test_faults_name_what_they_are_about():
    """Faults about Redis name no engine, those about routers name one, all others name an engine."""
    for fault in (fault for round_ in ROUNDS for fault in round_.faults):
        assert (fault.engine >= 0) == (fault.kind not in ABOUT_REDIS | ABOUT_ROUTER)
        assert (fault.router >= 0) == (fault.kind in ABOUT_ROUTER or fault.kind is Kind.LINK_ROUTER_ENGINE)
        assert (fault.seconds == 0) == (fault.kind in AT_ONCE)
        assert 0 <= fault.at <= MEANWHILE[1]
        assert fault.seconds <= 8


def test_no_process_is_hit_twice_in_a_round():
    """Killing what is stopped would say nothing about either."""
    for round_ in ROUNDS:
        about = [fault.about for fault in round_.faults]
        assert len(set(about)) == len(about)
