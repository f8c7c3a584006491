"""Chaos for a whole system on this machine: ``python -m tests.chaos --minutes 30 --seed 1``.

Starts Redis, engines, agents and routers, sends traffic, breaks things at random, and checks after each round
of faults that everything agrees again. Exit code 1 on any violation; logs are kept then.
"""

import argparse
import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import uvloop

from tests.chaos.fleet import running_fleet
from tests.chaos.processes import Process
from tests.chaos.report import Report
from tests.chaos.run import CONVERGE_SECONDS, Run
from tests.tiny_model import build_tiny_model


async def chaos(
    directory: Path,
    seed: int,
    minutes: float,
    converge_seconds: float = CONVERGE_SECONDS,
    tell: Callable[[str], None] = lambda text: None,
    num_rounds: int = 1_000_000,
) -> Report:
    """A run of so many minutes, counted from when everything is up."""
    report = Report(seed, converge_seconds, directory=str(directory))
    model = build_tiny_model(directory / "model")
    async with running_fleet(directory, model, seed) as fleet:
        tell("everything is up")
        run = Run(fleet, seed, report, tell, converge_seconds)
        try:
            await run.until(time.monotonic() + minutes * 60, num_rounds)
        except asyncio.CancelledError:
            report.aborted = "interrupted"
            raise
    for name, code in fleet.exit_codes.items():
        if code not in (0, -signal.SIGTERM):  # uvicorn ends in order, then by the signal that it was sent
            report.add(-1, f"{name} does not end properly when asked to", f"exit {code}")
    return report


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=1_000_000, help="end after so many rounds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--converge-seconds", type=float, default=CONVERGE_SECONDS)
    parser.add_argument("--json", type=Path, help="write the report there, too")
    parser.add_argument("--directory", type=Path, help="for logs; default: a new one, kept on failure")
    parser.add_argument("--quiet", action="store_true", help="only the report at the end")
    parser.add_argument("--copies", action="store_true", help="copy processes instead of importing anew")
    options = parser.parse_args()
    Process.afresh = not options.copies
    directory = options.directory or Path(tempfile.mkdtemp(prefix="chaos-"))
    directory.mkdir(parents=True, exist_ok=True)

    def tell(text: str) -> None:
        if not options.quiet:
            sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")

    async def interruptible() -> Report:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await chaos(
            directory.absolute(),
            options.seed,
            options.minutes,
            options.converge_seconds,
            tell,
            options.rounds,
        )

    try:
        report = uvloop.run(interruptible())
    except asyncio.CancelledError:
        sys.stderr.write(f"interrupted; logs in {directory}\n")
        return 130
    sys.stdout.write(report.text() + "\n")
    if options.json:
        report.write_json(options.json)
    if report.passed and not options.directory:
        with contextlib.suppress(OSError):
            shutil.rmtree(directory)
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
