"""Compares a router with its engine: ``python -m tests.conformance ENGINE_PORT ROUTER_PORT [NAME]``.

Both serve the model as ``m``. Prints every difference that is not meant, and exits 1 when there are any.
"""

import sys

from tests.conformance.case_list import all_cases
from tests.conformance.comparison import compare

if __name__ == "__main__":
    engine, router, *names = sys.argv[1:]
    found = 0
    cases = [case for case in all_cases() if not names or case.name.startswith(names[0])]
    for case in cases:
        for difference in compare(case, int(engine), int(router)):
            found += 1
            sys.stdout.write(f"{case.name}: {difference}\n  {case.request!s:.300}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(cases)} requests, {found} differences\n")
    sys.exit(bool(found))
