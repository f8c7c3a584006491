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
        self.store = HistoryStore(self.redis, Keys("test"), "r")
        self.savings = Savings(self.store)
        self.history = History(self.savings, self.clock)
        self.app = FastAPI()
        self.app.include_router(history_routes(self.history, self.savings, self.store))

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


async def test_trends_in_steps(admin):
    """Each step with requests has its sums by status, tokens, misses and times, and those of its replicas."""
    for replica, pause in (("a", 10), ("b", 10), ("", 15)):
        record = finished(
            replica, status=200 if replica else 404, misses={Reason.EVICTED: 30, Reason.TAIL: 6}
        )
        record.usage = record.usage if replica else None
        admin.history.add(record, 0.1 if replica else None, admin.clock.now)
        admin.clock.now += pause
    status, body = await admin.get("/admin/trends?seconds=40")
    assert status == 200
    assert (body["step_seconds"], body["end"]) == (10, NOON + 30)
    assert body["labels"] == [["m"], [], ["a", "b"], []]
    [first, second, third] = body["steps"]
    assert [step["time"] for step in body["steps"]] == [NOON, NOON + 10, NOON + 20]
    tokens = {"1": 100, "2": 80, "3": 70, "4": 64, "5": 5, "13": 30, "17": 6}
    [place] = first["sums"].keys() - {*tokens, "200"}
    assert body["first_seconds"] * body["ratio"] ** (int(place) - 1000) == pytest.approx(0.1, rel=0.051)
    assert first["sums"] == {"200": 1, **tokens, place: 1}
    assert (first["replicas"], second["replicas"]) == ({"a": [1, 100, 64]}, {"b": [1, 100, 64]})
    assert (third["sums"], third["replicas"]) == ({"404": 1}, {"": [1, 0, 0]})


async def test_trends_are_filtered(admin):
    """By any of the four labels, together; and only what is new, where that is asked for."""
    for model, tenant, replica in ("mta", "mtb", "mub", "nub"):
        record = finished(replica, model=model, tenant=tenant, status=200)
        admin.history.add(record, None, admin.clock.now)
    admin.clock.now += 15
    for query, requests in (("model=m", 3), ("model=m&replica=b", 2), ("tenant=u&model=n", 1), ("arm=x", 0)):
        _, body = await admin.get(f"/admin/trends?seconds=40&{query}")
        [step] = body["steps"]
        assert step["sums"].get("200", 0) == requests, query
        assert body["labels"][:3] == [["m", "n"], ["t", "u"], ["a", "b"]]
    _, body = await admin.get(f"/admin/trends?after={NOON:.0f}")
    assert body["steps"] == []


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
    row["priced_tokens"] = 64
    assert body["hours"] == [
        {"hour": NOON, "replica": "a", **row},
        {"hour": NOON, "replica": "b", **row},
        {
            "hour": NOON + 3600,
            "replica": "a",
            **row,
            "saved_tokens": 10,
            "saved_seconds": 0.01,
            "priced_tokens": 10,
        },
    ]
    assert body["total"] == {
        "requests": 3,
        "prompt_tokens": 300,
        "saved_tokens": 138,
        "saved_seconds": pytest.approx(0.138),
        "priced_tokens": 138,
    }
    [ttft] = body["ttft"]
    assert (ttft["model"], ttft["warm"]["count"], ttft["cold"]["count"]) == ("m", 0, 1)
    assert ttft["cold"]["p99"] == pytest.approx(0.8, rel=0.011)


async def test_savings_of_nothing(admin):
    """Whole JSON also then."""
    _, body = await admin.get("/admin/savings")
    assert (body["hours"], body["ttft"]) == ([], [])
    assert body["total"]["requests"] == 0


@pytest.mark.parametrize(
    ("path", "param"),
    [
        (f"/admin/trends?seconds={text}", "seconds")
        for text in ("9", "604801", "x", "", "-10", "1e2", "9" * 5000)
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
    [seconds, *_] = paths["/admin/trends"]["get"]["parameters"]
    assert seconds["schema"]["type"] == "integer"
    assert (seconds["schema"]["minimum"], seconds["schema"]["maximum"]) == (10, 604800)
