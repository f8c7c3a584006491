"""What one hostile client or one fault does to everybody else: ``python -m tests.hostile [ROW …]``.

Starts real processes on ports that the system gives, and ends them. Exit code 1 when a goal is missed.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from tests.hostile.run_bodies import bodies
from tests.hostile.run_clients import clients
from tests.hostile.run_environment import environment
from tests.hostile.run_fifty import fifty
from tests.hostile.run_fuzz import NUM_REQUESTS, fuzz
from tests.hostile.run_redis import redis
from tests.hostile.run_shapes import shapes
from tests.hostile.run_tenants import tenants
from tests.hostile.table import Table

ROWS: Mapping[str, Callable[[], Awaitable[Table]]] = {
    "bodies": bodies,
    "clients": clients,
    "environment": environment,
    "fifty": fifty,
    "fuzz": fuzz,
    "redis": redis,
    "shapes": shapes,
    "tenants": tenants,
}


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--seed", type=int, help="of the row 'fuzz'; default: a new one, which is printed")
    parser.add_argument("--count", type=int, default=NUM_REQUESTS, help="requests of the row 'fuzz'")
    parser.add_argument(
        "--schemathesis",
        metavar="PYTHON",
        default=sys.executable,
        help="an interpreter that has schemathesis",
    )
    options = parser.parse_args()
    rows = {**ROWS, "fuzz": partial(fuzz, options.seed, options.schemathesis, options.count)}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started ends, files are removed
    failures = 0
    for name in options.rows or rows:
        table = asyncio.run(rows[name]())
        load = ", ".join(f"{load:.1f}" for load in os.getloadavg())
        table.note(f"load of this machine's {os.cpu_count()} processors in the last 1, 5, 15 minutes: {load}")
        sys.stdout.write(f"{table}\n\n")
        failures += table.failures
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
