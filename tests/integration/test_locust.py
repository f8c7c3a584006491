"""Locust against the real system: its figures are those of the router and of the engines."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.system import System, eventually, free_port
from tests.process_copies import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

LOCUST = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest/locustfile.py")]
SCENARIO = """
description = "short conversations, bursts included"

[arrivals]
conversations_per_second = 5.0
seconds = 5.0

[users.support-bot]
weight = 2
system_prompts = { count = 1, tokens = 200 }
turns = 3
question = { median = 20, sigma = 0.5, low = 5, high = 60 }
answer = { median = 12, sigma = 0.5, low = 4, high = 30 }
think = { mean_seconds = 0.2 }

[users.agent]
weight = 1
system_prompts = { count = 2, tokens = 150 }
turns = 2
question = 30
answer = 8
think = { shortest_seconds = 0.01, longest_seconds = 0.1 }
burst = { share = 1.0, most = 2, instruction = 10 }
"""
METRIC = "warmroute_time_to_first_token_seconds"
SECONDS_APART = 0.01
"""By which means may differ besides the generator's own lag: the way from the router to the client."""


def locust(system: System, *options: str) -> "subprocess.Popen[bytes]":
    """Start Locust without its web page."""
    return system.start("locust", [*LOCUST, "--headless", "--only-summary", *options])


async def finished(process: "subprocess.Popen[bytes]") -> int:
    """Its exit code."""
    return await asyncio.to_thread(process.wait, 60)


async def start(system: System) -> tuple[str, Path]:
    """Two engines behind a router; returns its URL, and the scenario's file."""
    engines = [await system.start_engine() for _ in range(2)]
    system.start_agent(*(url for url, _ in engines))
    router = await system.start_router()
    path = system.directory / "short.toml"
    path.write_text(SCENARIO)
    return router, path


async def router_totals(system: System, router: str) -> dict[str, float]:
    """What the router has counted over all replicas; waits until nothing is on its way."""

    async def idle() -> bool:
        return (await system.get(f"{router}/admin/replicas"))["open_bookings"] == 0

    await eventually(idle, 10, "no booking is open")
    answer = await system.get(f"{router}/admin/replicas")
    return {
        "cached": sum(replica["delivered_cached_tokens"] for replica in answer["replicas"]),
        "prompt": sum(replica["prompt_tokens"] for replica in answer["replicas"]),
        "requests": sum(replica["requests"] for replica in answer["replicas"]),
    }


async def router_ttft(system: System, router: str) -> float:
    """Mean seconds to the first token, as the router measured it."""
    async with system.session.get(f"{router}/metrics") as response:
        lines = (await response.text()).splitlines()
    sums = {
        part: sum(float(line.split()[-1]) for line in lines if line.startswith(f"{METRIC}_{part}{{"))
        for part in ("sum", "count")
    }
    return sums["sum"] / sums["count"]


async def test_locust_and_router_agree(system: System) -> None:
    """Requests, prompt tokens and cached tokens are the same numbers; times to the first token differ by the
    way from the router to the client and the generator's lag. Later turns are warm.
    """
    router, scenario = await start(system)
    summary_file = system.directory / "summary.json"
    options = (
        "--host",
        router,
        "--scenario",
        str(scenario),
        "--json-summary",
        str(summary_file),
        "--seed",
        "4",
    )
    process = locust(system, *options, "-u", "12", "-r", "12", "-t", "6s", "--stop-timeout", "30")
    assert await finished(process) == 0, system.log("locust")

    summary = json.loads(summary_file.read_text())
    everything = summary["rows"]["all"]
    totals = await router_totals(system, router)
    assert everything["requests"] == totals["requests"] > 30
    assert everything["prompt_tokens"] == totals["prompt"]
    assert everything["cached_tokens"] == totals["cached"] > 0
    assert everything["failures"] == 0
    assert sum(replica["requests"] for replica in summary["replicas"].values()) == totals["requests"]
    lag = summary["generator"]["lag_seconds"]["p99"]
    difference = everything["ttft_seconds"]["mean"] - await router_ttft(system, router)
    assert abs(difference) < SECONDS_APART + lag
    rows = summary["rows"]
    assert rows["support-bot turn 2+"]["hit_rate"] > 0.7
    assert rows["support-bot turn 2+"]["hit_rate"] > rows["support-bot turn 1"]["hit_rate"]
    written = system.log("locust")
    for expected in ("TTFT", "TPOT", "CACHED TOKENS", "agent turn 2+", "hit rate"):
        assert expected in written


@pytest.mark.parametrize("api", ["messages", "responses"])
async def test_other_apis_are_counted_the_same(system: System, api: str) -> None:
    """Nothing fails, requests and tokens are the router's numbers, and later turns are warm."""
    router, scenario = await start(system)
    summary_file = system.directory / "summary.json"
    options = ("--scenario", str(scenario), "--json-summary", str(summary_file), "--api", api)
    times = ("-u", "8", "-r", "8", "-t", "4s", "--stop-timeout", "30")
    assert await finished(locust(system, "--host", router, *options, *times)) == 0, system.log("locust")
    rows = json.loads(summary_file.read_text())["rows"]
    totals = await router_totals(system, router)
    assert rows["all"]["failures"] == 0
    assert rows["all"]["requests"] == totals["requests"] > 10
    assert (rows["all"]["prompt_tokens"], rows["all"]["cached_tokens"]) == (
        totals["prompt"],
        totals["cached"],
    )
    assert rows["support-bot turn 2+"]["hit_rate"] > 0.7
    answer = await system.get(f"{router}/admin/replicas")
    assert answer["requests_by_path"] == {f"/v1/{api}": totals["requests"]}


async def test_workers_figures_add_up(system: System) -> None:
    """With two worker processes the master's summary is what the router has counted, to the last answer; and
    the second worker holds other conversations than the first.
    """
    router, scenario = await start(system)
    summary_file = system.directory / "summary.json"
    options = ("--host", router, "--scenario", str(scenario), "--json-summary", str(summary_file))
    process = locust(
        system, *options, "-u", "12", "-r", "12", "-t", "6s", "--stop-timeout", "30", "--processes", "2"
    )
    assert await finished(process) == 0, system.log("locust")

    summary = json.loads(summary_file.read_text())
    totals = await router_totals(system, router)
    assert summary["rows"]["all"]["requests"] == totals["requests"]
    assert summary["rows"]["all"]["cached_tokens"] == totals["cached"]
    assert summary["generator"]["processes"] == 2
    assert summary["rows"]["support-bot turn 1"]["hit_rate"] < 0.95, "the same conversations again"


async def test_a_trace_is_replayed_to_its_end(system: System) -> None:
    """Every recorded request is sent once at its time, shared ids become shared blocks, then Locust ends."""
    router, _ = await start(system)
    trace = system.directory / "trace.jsonl"
    lines = [
        {"timestamp": 250 * n, "input_length": 1100, "output_length": 40, "hash_ids": [0, n % 3 + 1, 100 + n]}
        for n in range(12)
    ]
    trace.write_text("\n".join(map(json.dumps, lines)))
    summary_file = system.directory / "summary.json"
    options = ("--host", router, "--trace", str(trace), "--json-summary", str(summary_file))
    process = locust(system, *options, "--speed", "2", "--length-scale", "0.125")
    assert await finished(process) == 0, system.log("locust")

    summary = json.loads(summary_file.read_text())
    assert summary["rows"]["all"]["requests"] == 12
    assert summary["rows"]["all"]["cached_tokens"] >= 9 * 128
    assert summary["seconds"] > 250 * 11 / 2 / 1000
    assert summary["generator"]["behind_schedule_seconds"]["count"] == 12


async def test_the_web_page_starts_and_shows_a_test(system: System) -> None:
    """Without --headless a test is started and stopped from the page, and its rows are there."""
    router, scenario = await start(system)
    port = free_port()
    command = [*LOCUST, "--host", router, "--scenario", str(scenario), "--web-host", "127.0.0.1"]
    process = system.start("locust", [*command, "--web-port", str(port), "--class-picker"])
    page = f"http://127.0.0.1:{port}"
    await eventually(lambda: system.answers(page), 30, "the page is there")
    form = {"user_count": "4", "spawn_rate": "4", "user_classes": "SupportBotUser", "seed": "3"}
    async with system.session.post(f"{page}/swarm", data=form) as response:
        assert (await response.json())["success"], await response.text()

    async def rows() -> dict[tuple[str, str], Any]:
        stats = (await system.get(f"{page}/stats/requests"))["stats"]
        return {(row["method"], row["name"]): row for row in stats}

    async def warm() -> bool:
        return ("TTFT", "support-bot turn 2+") in await rows()

    await eventually(warm, 20, "a later turn is in the table")
    assert ("LAG", "generator") in await rows()
    assert not any("agent" in name for _, name in await rows()), "the picker left only one class"
    async with system.session.post(f"{page}/stop") as response:
        assert response.status == 200
    await eventually(lambda: summary_is_written(system), 10, "the summary is printed")
    os.kill(process.pid, signal.SIGTERM)
    await finished(process)


async def summary_is_written(system: System) -> bool:
    """Whether the end of a test has been described."""
    return "all turn 2+ (warm)" in system.log("locust")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--scenario", "nope"), "unknown scenario nope: choose one of agents, "),
        (("--weights", "chat=1"), "--weights: no kind of users is called chat: support"),
        (("--weights", "support=0"), "--weights: no kind of users is left"),
        (("--trace", "missing.jsonl"), "--trace missing.jsonl: No such file"),
        (("--extra-body", "[1]", "-t", "1s"), "--extra-body: expected a JSON object"),
        (("--max-turns", "-1"), "--max-turns -1: expected 0 or more"),
        (("--host", "localhost", "-t", "1s"), "--host localhost: expected a URL"),
        (("-t", "1s"), "cannot start: ConnectionRefusedError"),
    ],
)
def test_bad_flags_end_locust_with_a_reason(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    """Whoever starts Locust with a flag that cannot work is told which, and the exit code says so."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # taken, and nobody listens
        host = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        result = subprocess.run(
            [*LOCUST, "--headless", "--host", host, *options],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    assert message in result.stderr + result.stdout
    assert result.returncode != 0
