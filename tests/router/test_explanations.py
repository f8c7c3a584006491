"""The last requests can be listed and explained, in every router, within bounds."""

import time

import fakeredis
import msgspec
import numpy as np
import pytest
from msgspec.structs import asdict, replace

from cluster.protocol.wire import Keys
from router.explain.misses import Considered, Divergence, Reason
from router.history.record import RequestRecord
from router.http.sse import PromptTokensDetails, Usage
from router.observe import explanations as module
from router.observe.explanations import MAX_BYTES, MAX_RECORDS, Explanations
from router.observe.request_summary import RequestExplanation


@pytest.fixture
def server():
    """A Redis in this process; `connected` is whether it answers."""
    return fakeredis.FakeServer(version=(7,))


@pytest.fixture
def start(server):
    """Makes the explanations of one more router."""

    def start(router="one"):
        redis = fakeredis.FakeAsyncRedis(server=server)
        explanations = Explanations(redis, Keys("test"), router)
        explanations.redis = redis  # whoever uses its commands holds the client
        return explanations

    return start


def considered(num_replicas, row=0, best=0):
    """What a decision saw: the first replica is the cheapest, one may not be chosen, one holds the most."""
    cached = np.zeros(num_replicas, dtype=np.int64)
    cached[best] = 1600
    costs = np.arange(num_replicas, dtype=np.float64)
    costs[-1] = np.inf
    eligible = np.isfinite(costs)
    zeros = np.zeros(num_replicas, dtype=np.int64)
    replicas = tuple(f"r{number}" for number in range(num_replicas))
    return Considered(replicas, row, eligible, cached, zeros, zeros, costs, last_replica=1, caches_seen=True)


def record(request_id="x", outcome="ok", **fields):
    """A finished request."""
    usage = Usage(prompt_tokens=1000, completion_tokens=5, prompt_tokens_details=PromptTokensDetails(600))
    values = {"replica": "r0", "model": "m", "status": 200, "usage": usage, **fields}
    return RequestRecord(request_id=request_id, path="/v1/completions", outcome=outcome, **values)


def finish(explanations, *records):
    """These have just ended."""
    for each in records:
        explanations.add(each, 0.25, each.started + 1.5)


async def test_summary_and_explanation(start):
    """Everything that is known of a request, in the shapes that are documented."""
    one = start()
    divergence = Divergence(token=32, message=1, role="user", kind="date")
    misses = {Reason.DIVERGED: 300, Reason.COLD: 90, Reason.TAIL: 10}
    finish(one, record("x/1", misses=misses, divergence=divergence, considered=considered(3)))
    [summary] = await one.recent(10)
    assert abs(summary.time - time.time()) < 60
    assert (summary.ttft_ms, summary.duration_ms) == (250.0, 1500.0)
    assert (summary.prompt_tokens, summary.delivered_tokens, summary.completion_tokens) == (
        1000,
        600,
        5,
    )
    assert summary.main_miss == "diverged"
    explanation = await one.explain("x/1")
    assert asdict(summary).items() <= asdict(explanation).items()
    assert msgspec.json.decode(msgspec.json.encode(explanation), type=RequestExplanation) == explanation
    assert set(explanation.misses) == set(Reason)
    assert sum(explanation.misses.values()) == 400
    assert explanation.divergence == divergence
    assert [one.replica for one in explanation.candidates] == ["r0", "r1", "r2"]
    assert [one.cost for one in explanation.candidates] == [0.0, 1.0, None]
    assert [one.last_replica for one in explanation.candidates] == [False, True, False]
    assert (explanation.num_candidates, explanation.router) == (3, "one")


async def test_a_request_that_never_came_to_a_decision(start):
    """It is shown, too, with what is known."""
    one = start()
    one.add(record(outcome="refused", usage=None, replica="", model=""), None, time.monotonic())
    explanation = await one.explain("x")
    assert (explanation.misses, explanation.candidates, explanation.ttft_ms) == (None, [], None)
    assert (explanation.delivered_tokens, explanation.main_miss) == (None, None)
    msgspec.json.encode(explanation)


@pytest.mark.parametrize(("row", "best"), [(0, 0), (900, 950), (3, 900), (900, 3), (15, 16), (14, 15)])
async def test_of_many_candidates_those_that_matter(start, row, best):
    """Sixteen, ordered by cost, always with the chosen one and the one that held most."""
    one = start()
    finish(one, record(considered=considered(1024, row, best)))
    explanation = await one.explain("x")
    candidates, names = explanation.candidates, [each.replica for each in explanation.candidates]
    assert len(set(names)) == 16
    assert {f"r{row}", f"r{best}"} <= set(names)
    assert [each.cost for each in candidates] == sorted(each.cost for each in candidates)
    assert [each.replica for each in candidates if each.chosen] == [f"r{row}"]
    assert explanation.num_candidates == 1024


async def test_only_the_last_are_kept(start):
    """A thousand, and of large fleets fewer: what decisions saw takes memory."""
    one = start()
    finish(one, *(record(str(number)) for number in range(MAX_RECORDS + 10)))
    assert await one.explain("9") is None
    assert await one.explain("10") is not None
    assert len(await one.recent(MAX_RECORDS + 10)) == MAX_RECORDS
    shared = considered(1024)
    finish(one, *(record(str(number), considered=shared) for number in range(MAX_RECORDS)))
    assert len(one.newest(MAX_RECORDS)) == MAX_BYTES // (module.RECORD_BYTES + 1024 * module.ROW_BYTES)


async def test_of_two_with_one_id_the_newest_is_explained(start):
    """Clients may choose ids."""
    one = start()
    finish(one, record("x", status=500), record("x", status=200))
    assert (await one.explain("x")).status == 200


async def test_other_routers_list_and_explain_what_was_shared(start):
    """Also when the one that took it has ended."""
    one, other = start("one"), start("other")
    finish(one, record("shared", considered=considered(40)))
    await one._publish()
    finish(other, record("own"))
    assert [summary.request_id for summary in await other.recent(10)] == ["own", "shared"]
    assert [summary.request_id for summary in await other.recent(1)] == ["own"]
    explanation = await other.explain("shared")
    assert explanation == replace(await one.explain("shared"), time=explanation.time)
    assert await other.explain("unknown") is None


async def test_a_sample_is_shared_the_telling_ones_first(start):
    """At most ten a second: failures, then what diverged, then what should have been cached; none twice."""
    one, other = start("one"), start("other")
    finish(
        one,
        *(record(f"plain-{number}", misses={Reason.COLD: 1000}) for number in range(500)),
        record("evicted", misses={Reason.EVICTED: 500}),
        record("failed", outcome="failed"),
        record("diverged", divergence=Divergence(0, 0, "user", "id"), misses={Reason.DIVERGED: 9}),
        record("lost", misses={Reason.REPLICA_LOST: 900, Reason.COLD: 100}),
    )
    await one._publish()
    await one._publish()
    shared = {summary.request_id for summary in await other.recent(50)}
    assert len(shared) == 5
    assert {"evicted", "failed", "diverged", "lost"} <= shared


async def test_what_is_shared_has_a_bound(start, monkeypatch):
    """Redis keeps about as many as it should, whatever the number of routers."""
    monkeypatch.setattr(module, "MAX_SHARED", 20)
    routers = [start(str(number)) for number in range(3)]
    for _ in range(20):
        for router in routers:
            finish(router, *(record() for _ in range(10)))
            await router._publish()
    assert await routers[0].redis.xlen("test:requests") <= 20 + 100  # trimmed by whole nodes of a hundred


async def test_without_redis_the_own_ones_are_there(start, server):
    """Listed and explained as before."""
    one = start()
    finish(one, record())
    server.connected = False
    assert len(await one.recent(10)) == 1
    assert (await one.explain("x")).request_id == "x"
    assert await one.explain("y") is None


async def test_entries_of_other_versions_are_skipped(start):
    """They do not keep the others from being shown."""
    one, other = start("one"), start("other")
    finish(one, record())
    await one._publish()
    for fields in ({"id": "y", "entry": "{}"}, {"id": "y", "entry": "\xff"}, {"else": "?"}):
        await one.redis.xadd("test:requests", fields)
    assert [summary.request_id for summary in await other.recent(10)] == ["x"]
    assert await other.explain("y") is None


async def test_news_for_pages(start):
    """Own ones since the last time, and those that others have shared since."""
    one, other = start("one"), start("other")
    finish(one, record("before"))
    await one._publish()
    number, last = other.num_added, (await other.shared_since(b"", 20))[0]
    assert await other.shared_since(last, 20) == (last, [])
    finish(one, record("new"))
    finish(other, record("own"))
    await one._publish()
    await other._publish()
    last, found = await other.shared_since(last, 20)
    assert [summary.request_id for summary in found] == ["new"]
    number, found = other.added_since(number, 20)
    assert [summary.request_id for summary in found] == ["own"]
    assert other.added_since(number, 20) == (number, [])
    assert await other.shared_since(last, 20) == (last, [])
