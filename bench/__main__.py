"""Moorage against other registries, on the same core and the same disk.

Each row starts the registries on fresh storage, pinned to one core, with the load generators on the others,
and measures them in turn: peers, ours, peers, ours, ...  A ratio is ours through a peer's of the same round.

    python3 dev.py bench                         every row, about fifteen minutes
    python3 dev.py bench --quick                 every row, short and small: about three minutes
    python3 dev.py bench --only manifest-get,start
    python3 dev.py bench --full --rounds 7       the run of record; the memory row moves 64 GiB
    python3 dev.py bench --peer debian --peer distribution=/opt/registry --peer zot=/opt/zot
    python3 dev.py bench --s3 radosgw --only s3-push-large,s3-manifest-get,s3-requests

docs/benchmarks.md explains the rows and the numbers.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tests.stores.known import STORES

from bench import report, servers, store
from bench.machine import describe
from bench.rows import ROWS
from bench.rows.base import BOTH, Bench

if TYPE_CHECKING:
    from bench.rows.base import Row


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    names = options.only.split(",") if options.only else list(ROWS)
    unknown = sorted(set(names) - set(ROWS))
    if unknown:
        print(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}", file=sys.stderr)
        return 2
    try:
        peers = _peers(options.peer or ["debian"])
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        print("needs two cores: one for the server, the others for the load", file=sys.stderr)
        return 2
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="moorage-bench-", dir=options.disk))
        bench = Bench(
            cpus[0], tuple(cpus[1:]), Path(scratch), options.rounds, options.seconds, options.quick, options.full
        )
        machine = describe(bench.scratch)
        os.sched_setaffinity(0, bench.load_cpus)
        if options.s3:
            # Its programs inherit the cores of the load.
            account = stack.enter_context(STORES[options.s3](Path(scratch)))
            os.environ.update(account.environment())
            machine["S3 store"] = account.version
            print(f"the S3 rows use {account.version}", file=sys.stderr, flush=True)
        done = []
        for name in names:
            print(f"{name} ...", file=sys.stderr, flush=True)
            row = ROWS[name]
            beside = row.peers(peers)
            if left_out := [peer for peer in peers if peer not in beside and not row.peer and row.sides == BOTH]:
                print(f"  not done by {', '.join(left_out)}", file=sys.stderr, flush=True)
            measured = _measure(bench, row, beside)
            done.append(measured)
            for metric in row.metrics:
                print("\n".join(report.lines(measured, metric)), flush=True)
            # Written after each row: a run that is broken off keeps what it has.
            report.write(Path(options.out), machine, vars(options), done)
    print(f"\n{report.markdown(machine, done)}\nwritten to {options.out}/results.md and results.json")
    return 0


def _peers(texts: list[str]) -> list[str]:
    """Return the peers' names, and note their programs.  Raises ValueError."""
    names = []
    for text in texts:
        name, _, path = text.partition("=")
        if name == "debian":
            names.append(servers.PEER)
            if path:
                servers.PROGRAMS.add(servers.PEER, path)
        elif name in {servers.DISTRIBUTION, servers.ZOT} and path:
            names.append(name)
            servers.PROGRAMS.add(name, path)
        else:
            raise ValueError(f"--peer {text}: expected debian, distribution=PATH or zot=PATH")
        program = path or servers.PEER
        if shutil.which(program) is None:
            raise ValueError(
                f"--peer {text}: there is no program {program}; docs/benchmarks.md says how to get one"
            )
    return names


def _measure(bench: Bench, row: Row, beside: list[str]) -> report.Measured:
    rounds = bench.rounds if row.rounds is None else min(bench.rounds, row.rounds)
    measured = report.Measured(row, beside)
    sides = [*beside, servers.OURS]
    home = bench.scratch / row.name
    with ExitStack() as stack:
        if row.s3:
            bench = replace(bench, store=stack.enter_context(store.a_store(home / "store", bench.load_cpus)))
        running = {}
        if row.alone is None:
            for side in sides:
                running[side] = stack.enter_context(servers.start(side, home / side, [bench.server_cpu]))
                if row.prepare is not None:
                    row.prepare(bench, running[side])
            os.sync()
        for number in range(rounds):
            for side in sides:
                if row.alone is not None:
                    numbers = row.alone(bench, side, home / f"{side}-{number}")
                else:
                    assert row.measure is not None
                    numbers = row.measure(bench, running[side])
                measured.rounds[side].append(numbers)
                told = "  ".join(f"{name}={value:.4g}" for name, value in numbers.items())
                print(f"  round {number + 1} {side}: {told}", file=sys.stderr, flush=True)
    shutil.rmtree(home)
    os.sync()
    return measured


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "dev.py bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", metavar="ROW,...", help=f"some rows of: {', '.join(ROWS)}")
    parser.add_argument(
        "--peer",
        action="append",
        metavar="NAME[=PATH]",
        help="what stands beside ours: debian (default), distribution=PATH, zot=PATH; may be repeated",
    )
    parser.add_argument("--rounds", type=int, default=0, help="how often each side is measured (5; quick: 2)")
    parser.add_argument("--seconds", type=float, default=0, help="how long one load lasts (5; quick: 2)")
    parser.add_argument(
        "--s3",
        choices=STORES,
        help="what the S3 rows use, started for this run (default: moto, or the environment's)",
    )
    parser.add_argument("--quick", action="store_true", help="short rounds, small trees")
    parser.add_argument("--full", action="store_true", help="the memory row with blobs of 1 GiB")
    parser.add_argument("--disk", metavar="FOLDER", help="where both keep their storage (default: TMPDIR)")
    parser.add_argument("--out", metavar="FOLDER", default="build/bench", help="for results.json and results.md")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.seconds = options.seconds or (2.0 if options.quick else 5.0)
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
