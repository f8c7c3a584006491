"""What the admin API shows of the past."""

import json
from types import SimpleNamespace

import pytest
from fastapi import FastAPI

from cluster.protocol.wire import Keys
from cluster.store.store import connect
from router.admin import history as routes
from router.admin.history import history_routes
from router.explain.misses import Reason
from router.history.history import History
from router.history.history_store import HistoryStore
from router.history.savings import Savings
from tests.router.conftest import NO_REDIS
from tests.router.finished_requests import NOON, Clock, finished


class Admin:
    """The routes over a history, called as a server would."""

    def __init__(self):
        self.clock = Clock()
        self.redis = connect(NO_REDIS)  # whoever uses its commands holds the client
        self.savings = Savings(HistoryStore(self.redis, Keys("test"), "r"))
        self.history = History(self.savings, self.clock)
        self.app = FastAPI()
        self.app.include_router(history_routes(self.history, self.savings))

    async def get(self, path):
        """Status and decoded body."""
        path, _, query = path.partition("?")
        sent = []

        async def send(message):
            sent.append(message)

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "query_string": query.encode(),
            "headers": [],
            "http_version": "1.1",
        }
        await self.app(scope, receive, send)
        start, *bodies = sent
        assert dict(start["headers"])[b"content-type"] == b"application/json"
        return start["status"], json.loads(b"".join(message["body"] for message in bodies))


@pytest.fixture
def admin(monkeypatch):
    """The routes, and the time that they and the history see."""
    admin = Admin()
    monkeypatch.setattr(routes, "time", SimpleNamespace(time=admin.clock))
    return admin


async def test_history_in_steps(admin):
    """Every replica with traffic has a number for every step, the fleet one for every reason."""
    for replica, pause in (("a", 10), ("b", 10), ("a", 15)):
        record = finished(replica, misses={Reason.EVICTED: 30, Reason.TAIL: 6})
        admin.history.add(record, None, admin.clock.now)
        admin.clock.now += pause
    status, body = await admin.get("/admin/history?seconds=40")
    assert status == 200
    assert body.keys() == {"step_seconds", "times", "replicas", "misses"}
    assert body["step_seconds"] == 10
    assert body["times"] == [NOON - 10, NOON, NOON + 10, NOON + 20]
    assert body["replicas"] == {
        "a": {
            "requests": [0, 1, 0, 1],
            "prompt_tokens": [0, 100, 0, 100],
            "available_tokens": [0, 80, 0, 80],
            "predicted_tokens": [0, 70, 0, 70],
            "delivered_tokens": [0, 64, 0, 64],
        },
        "b": {
            "requests": [0, 0, 1, 0],
            "prompt_tokens": [0, 0, 100, 0],
            "available_tokens": [0, 0, 80, 0],
            "predicted_tokens": [0, 0, 70, 0],
            "delivered_tokens": [0, 0, 64, 0],
        },
    }
    assert body["misses"].keys() == set(Reason)
    assert body["misses"]["evicted"] == [0, 30, 30, 30]
    assert body["misses"]["cold"] == [0, 0, 0, 0]


@pytest.mark.parametrize("replicas", [0, 1, routes.PIECE, routes.PIECE + 1])
async def test_history_is_whole_json_of_any_number_of_replicas(admin, replicas):
    """It is encoded in pieces, and none is missing; an hour by default."""
    for number in range(replicas):
        admin.history.add(finished(f'"{number}"'), None, admin.clock.now)
    admin.clock.now += 15
    _, body = await admin.get("/admin/history")
    assert len(body["times"]) == 360
    assert set(body["replicas"]) == {f'"{number}"' for number in range(replicas)}


async def test_savings(admin):
    """By hour, replica and model, with their total; times to the first token by model."""
    for replica in "ab":
        admin.history.add(finished(replica), 0.2, admin.clock.now)
    admin.clock.now += 3600
    admin.history.add(finished("a", cached=10), 0.8, admin.clock.now)
    admin.clock.now += 15
    admin.history.advance(admin.clock.now)
    status, body = await admin.get("/admin/savings?hours=2")
    assert status == 200
    assert body.keys() == {"hours", "total", "ttft"}
    row = {"model": "m", "requests": 1, "prompt_tokens": 100, "saved_tokens": 64, "saved_seconds": 0.064}
    assert body["hours"] == [
        {"hour": NOON, "replica": "a", **row},
        {"hour": NOON, "replica": "b", **row},
        {"hour": NOON + 3600, "replica": "a", **row, "saved_tokens": 10, "saved_seconds": 0.01},
    ]
    assert body["total"] == {
        "requests": 3,
        "prompt_tokens": 300,
        "saved_tokens": 138,
        "saved_seconds": pytest.approx(0.138),
    }
    [ttft] = body["ttft"]
    assert (ttft["model"], ttft["warm"]["count"], ttft["cold"]["count"]) == ("m", 0, 1)
    assert ttft["cold"]["p99"] == pytest.approx(0.8, rel=0.051)


async def test_savings_of_nothing(admin):
    """Whole JSON also then."""
    _, body = await admin.get("/admin/savings")
    assert (body["hours"], body["ttft"]) == ([], [])
    assert body["total"]["requests"] == 0


@pytest.mark.parametrize(
    ("path", "param"),
    [
        (f"/admin/history?seconds={text}", "seconds")
        for text in ("9", "3601", "x", "", "-10", "1e2", "9" * 5000)
    ]
    + [(f"/admin/savings?hours={text}", "hours") for text in ("0", "169", "1.5", "x")],
)
async def test_bad_numbers_are_refused(admin, path, param):
    """With the name of what is wrong; the application gives it the format of all errors."""
    status, body = await admin.get(path)
    assert status == 422
    assert body["detail"][0]["loc"] == ["query", param]


def test_documentation_says_which_numbers(admin):
    """OpenAPI shows them as numbers with their limits."""
    paths = admin.app.openapi()["paths"]
    [seconds] = paths["/admin/history"]["get"]["parameters"]
    assert seconds["schema"]["type"] == "integer"
    assert (seconds["schema"]["minimum"], seconds["schema"]["maximum"]) == (10, 3600)
