"""The long soak of garbage collection, `python3 dev.py soak --collect`."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.gc.soak.clients import SoakFailure
from tests.gc.soak.soak import soak
from tests.gc.soak.stores import STORES


def main() -> None:
    """Run the soak, and print its numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="duration (default %(default)g)")
    parser.add_argument("--seed", type=int, default=1, help="of the clients and kills (default 1)")
    parser.add_argument("--clients", type=int, default=6, help="number of pushers (default 6)")
    parser.add_argument(
        "--store", choices=STORES, default="filesystem", help="s3 is a bucket of moto (default %(default)s)"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            work = soak(Path(folder), given.seconds, seed=given.seed, clients=given.clients, kind=given.store)
            print(asyncio.run(work))
        except SoakFailure as error:
            sys.exit(f"failure: {error}")


if __name__ == "__main__":
    main()
