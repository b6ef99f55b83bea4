"""The whole search of the model of garbage collection, `python3 dev.py model`.

    python3 dev.py model                            every scenario, then every mutation
    python3 dev.py model --limit 1000000 indexing   some scenarios, at most a million states each

The exit status is 0 only if no property is broken and each mutation is found.  A scenario with more states than
the limit is reported as not searched whole.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Final

from tests.gc.model.explorer import Explorer
from tests.gc.model.mutations import MUTATIONS
from tests.gc.model.scenarios import SCENARIOS, scenario

_LIMIT: Final = 5_000_000


def main() -> None:
    """Search, print a line for each scenario and mutation, and each trace that is unexpected."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="SCENARIO", help=f"one of {', '.join(SCENARIOS)}")
    parser.add_argument("--limit", type=int, default=_LIMIT, help="states of one scenario (default %(default)s)")
    given = parser.parse_args()
    if unknown := {*given.names} - {*SCENARIOS}:
        parser.error(f"no scenario: {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    failed = False
    for name in given.names or SCENARIOS:
        begun = time.monotonic()
        result = Explorer(scenario(name)).run(given.limit)
        whole = "all" if result.complete else "the first"
        print(f"{name}: {whole} {result.states} states, {time.monotonic() - begun:.0f} s", flush=True)
        if result.broken:
            failed = True
            print("\n    ".join((f"    {result.broken}", *result.trace)), flush=True)
    for mutation in () if given.names else MUTATIONS:
        searched = scenario(mutation.scenario, **dict.fromkeys(mutation.off, False))
        result = Explorer(searched).run(given.limit, deep=mutation.deep)
        found = result.broken.startswith(mutation.breaks)
        failed = failed or not found
        print(f"{mutation.name}: {result.broken or 'NOT FOUND'}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
