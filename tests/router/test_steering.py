"""Decisions of operators hold for every router, survive Redis, and are refused rather than half taken."""

import time

import fakeredis
import msgspec
import pytest

from cluster.errors import StoreUnavailableError
from cluster.fleet.fleet import Fleet
from cluster.protocol.wire import Keys
from cluster.store.operator_commands import CommandStore
from cluster.store.steering import Experiment, SteeringStore
from cluster.sync.follower import Follower
from policies.catalog import POLICIES
from router.steer.arm_totals import ArmColumn
from router.steer.operator_commands import CommandFollower
from router.steer.steering import Steering
from router.tenants.cache_scopes import CacheScopes

KEY = 12345


@pytest.fixture
def server():
    """A Redis in this process; `connected` is whether it answers."""
    return fakeredis.FakeServer(version=(7,))


@pytest.fixture
def start(server):
    """Makes the steering of one more router of the deployment."""

    def start(setting="warm", catalog=POLICIES, router_id="r"):
        redis = fakeredis.FakeAsyncRedis(server=server)
        keys, fleet = Keys("test"), Fleet()
        followed = CommandFollower(
            CommandStore(redis, keys), fleet, Follower(redis, keys, fleet, 1.0), CacheScopes()
        )
        steering = Steering(SteeringStore(redis, keys), catalog, setting, router_id, followed)
        steering.redis = redis  # whoever uses its commands holds the client
        return steering

    return start


def experiment(control="round-robin", share=0.5, started=1.0):
    """An experiment."""
    return Experiment(name="x", control=control, share=share, started=started)


async def test_setting_counts_until_something_is_decided(start):
    """Nothing in Redis: each router uses its own setting."""
    one, other = start("warm"), start("least-load")
    for router in (one, other):
        assert not router.synchronised.is_set()
        await router._refresh()
        assert router.synchronised.is_set()
    assert one.policy_for(KEY).policy is POLICIES["warm"]
    assert other.policy_for(KEY).policy_name == "least-load"
    assert msgspec.to_builtins(other.describe()) == {
        "policy": "least-load",
        "set_by": "setting",
        "setting": "least-load",
        "policies": sorted(POLICIES),
        "experiment": None,
    }


async def test_decided_policy_wins_until_it_is_taken_back(start):
    """It holds for routers with other settings and for those that start later; afterwards settings count."""
    one, other = start("warm"), start("least-load")
    await one.decide_policy("round-robin")
    await other._refresh()
    late = start("consistent-hash")
    await late._refresh()
    for router in (one, other, late):
        assert router.policy_for(KEY).policy is POLICIES["round-robin"]
        assert router.describe().set_by == "admin"
    await other.decide_policy("")
    for router in (one, late):
        await router._refresh()
    names = [router.policy_for(KEY).policy_name for router in (one, other, late)]
    assert names == ["warm", "least-load", "consistent-hash"]


async def test_experiment_and_policy_are_decided_apart(start):
    """Switching the default leaves the experiment running; ending it leaves the policy."""
    one, other = start(), start()
    await one.decide_experiment(experiment())
    await other.decide_policy("least-load")
    await one._refresh()
    keys = range(1, 200)
    assert {one.policy_for(key).policy_name for key in keys} == {"least-load", "round-robin"}
    assert [one.policy_for(key).arm for key in keys] == [other.policy_for(key).arm for key in keys]
    await other.decide_experiment(None)
    await one._refresh()
    assert {one.policy_for(key).policy_name for key in keys} == {"least-load"}


async def test_conversation_without_a_key_takes_part_in_nothing(start):
    """It goes to the default policy and is counted for no arm."""
    router = start()
    await router.decide_experiment(experiment(share=0.999999))
    assert router.policy_for(KEY).arm == "control"
    assert router.policy_for(0).policy_name == "warm"
    assert router.policy_for(0).totals is None


async def test_without_redis_the_last_decision_goes_on_and_none_is_taken(start, server):
    """What is refused has changed nothing, neither here nor for the others."""
    one, other = start(), start()
    await one.decide_policy("least-load")
    await one.decide_experiment(experiment())
    arms = [one.policy_for(key).arm for key in range(1, 50)]
    server.connected = False
    for decision in (one.decide_policy("round-robin"), one.decide_experiment(None)):
        with pytest.raises(StoreUnavailableError):
            await decision
    assert one.describe().policy == "least-load"
    assert [one.policy_for(key).arm for key in range(1, 50)] == arms
    assert (await one.report())["routers"] == 1
    server.connected = True
    await other._refresh()
    assert other.describe().policy == "least-load"


async def test_decisions_survive_a_redis_that_lost_everything(start):
    """A router that remembers writes them again, also that a policy was taken back; a new one finds them."""
    one = start()
    await one.decide_policy("least-load")
    await one.decide_experiment(experiment())
    await one.redis.flushall()
    await one._refresh()
    late = start()
    await late._refresh()
    assert late.describe().policy == "least-load"
    assert late.describe().experiment["control"] == "round-robin"
    await late.decide_policy("")
    await late.redis.flushall()
    await late._refresh()
    await one._refresh()
    assert one.describe().policy == "warm"


async def test_lost_decision_does_not_undo_a_newer_one(start):
    """What a router remembers is written only where nothing stands."""
    one, other = start(), start()
    await one.decide_policy("least-load")
    await one.redis.flushall()
    await other.decide_policy("round-robin")
    await one._refresh()
    assert one.describe().policy == "round-robin"


async def test_policy_that_this_router_does_not_know_is_ignored_and_said(start):
    """Routers of another version may know more: this one goes on with its setting until that changes."""
    newer = start(catalog={**POLICIES, "clairvoyant": POLICIES["warm"]})
    older = start("least-load")
    await newer.decide_policy("clairvoyant")
    await newer.decide_experiment(experiment(control="clairvoyant"))
    await older._refresh()
    assert older.policy_for(KEY).policy_name == "least-load"
    assert older.policy_for(KEY).totals is None
    assert older.problems == (
        "policy 'clairvoyant', set for all routers, is unknown here: 'least-load' decides",
        "the experiment's policy 'clairvoyant' is unknown here: it is not run",
    )
    await newer.decide_policy("warm")
    await newer.decide_experiment(None)
    await older._refresh()
    assert older.problems == ()
    assert older.policy_for(KEY).policy_name == "warm"


@pytest.mark.parametrize("junk", [b"\xff", b'{"control": "warm"}', b"[]"])
async def test_experiment_that_cannot_be_read_is_ignored_and_said(start, junk):
    """Another version may write it otherwise."""
    router = start()
    await router.redis.hset("test:steering", mapping={"experiment": junk})
    await router._refresh()
    assert router.policy_for(KEY).totals is None
    assert router.problems[0].startswith("the experiment cannot be read")


def count(steering, key, **values):
    """Count one request of a conversation where it belongs."""
    assigned = steering.policy_for(key)
    assigned.totals.add(assigned.group, {ArmColumn[name.upper()]: value for name, value in values.items()})


async def test_report_covers_all_routers(start):
    """Also one that has ended since; its own counts are the newest."""
    one, other = start(router_id="one"), start(router_id="other")
    await one.decide_experiment(experiment())
    await other._refresh()
    for key in range(1, 11):
        count(one, key, requests=1)
        count(other, key, requests=1)
    for router in (one, other):
        await router._publish_results()
    count(one, KEY, requests=1)
    report = await one.report()
    assert report["routers"] == 2
    assert sum(arm["requests"] for arm in report["arms"].values()) == 21
    assert 0 < await one.redis.ttl(one._store._results(one._trial.id)) <= 24 * 3600


async def test_results_are_told_every_two_seconds(start, monkeypatch):
    """Not with every look at the decisions."""
    router = start()
    await router.decide_experiment(experiment())
    written = []
    monkeypatch.setattr(router._store, "publish_results", _recorder(written))
    await router._publish_results()
    await router._publish_results()
    assert len(written) == 1
    router._next_results = time.monotonic()
    await router._publish_results()
    assert len(written) == 2


def _recorder(written):
    async def publish_results(*arguments):
        written.append(arguments)

    return publish_results


async def test_every_change_counts_from_zero(start):
    """A new share, or another default policy, would mix what cannot be compared. The same again changes
    nothing, and a request counts for the trial in which it began."""
    router = start()
    await router.decide_experiment(experiment())
    late = router.policy_for(KEY)
    await router.decide_policy("warm")
    assert router.policy_for(KEY).totals is late.totals, "warm was the default before"
    await router.decide_experiment(experiment(share=0.6, started=2.0))
    assert router.policy_for(KEY).totals is not late.totals
    late.totals.add(late.group, {ArmColumn.REQUESTS: 1})
    count(router, KEY, requests=1)
    await router.decide_policy("least-load")
    assert sum(arm["requests"] for arm in (await router.report())["arms"].values()) == 0
