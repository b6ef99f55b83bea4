"""Benchmarks of Moorage and other registries, on the same core and the same disk.

Each row starts the registries on fresh storage, pinned to one core, with the load generators on the others,
and measures them in turn: peers, Moorage, peers, Moorage, ...  A ratio is Moorage's number divided by the
peer's of the same round.

    python3 dev.py bench                         every row, about fifteen minutes
    python3 dev.py bench --quick                 every row, short and small: about three minutes
    python3 dev.py bench --only manifest-get,start
    python3 dev.py bench --full --rounds 7       the run of record; each memory row moves 64 GiB
    python3 dev.py bench --peer none             Moorage alone
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
from bench.rows.base import Bench

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.rows.base import Row


class Unusable(Exception):
    """The arguments are invalid; the message is for the user."""


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    try:
        rows = _rows(options.only)
        peers = _peers(options.peer or ["debian"])
        if options.disk is not None and not Path(options.disk).is_dir():
            raise Unusable(f"--disk {options.disk}: there is no such folder")
        cpus = sorted(os.sched_getaffinity(0))
        if len(cpus) < 2:
            raise Unusable("the benchmark needs two cores: one for the server, the others for the load")
    except Unusable as error:
        print(error, file=sys.stderr)
        return 2
    for name, program in peers.items():
        servers.PROGRAMS.add(name, program)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="moorage-bench-", dir=options.disk)))
        bench = Bench(
            cpus[0], tuple(cpus[1:]), scratch, options.rounds, options.seconds, options.quick, options.full
        )
        machine = describe(scratch, peers)
        os.sched_setaffinity(0, bench.load_cpus)
        if options.s3:
            # Its programs inherit the cores of the load.
            account = stack.enter_context(STORES[options.s3](scratch))
            os.environ.update(account.environment())
            machine["S3 store"] = account.version
            print(f"the S3 rows use {account.version}", file=sys.stderr, flush=True)
        done, left_out = _run(bench, rows, list(peers), lambda *found: _write(options, machine, *found))
    print(f"\n{report.markdown(machine, done, left_out)}\nwritten to {options.out}/results.md and results.json")
    return 0


def _write(
    options: argparse.Namespace,
    machine: dict[str, str],
    done: list[report.Measured],
    left_out: list[report.LeftOut],
) -> None:
    report.write(Path(options.out), machine, vars(options), done, left_out)


def _run(
    bench: Bench,
    rows: list[Row],
    peers: list[str],
    keep: Callable[[list[report.Measured], list[report.LeftOut]], None],
) -> tuple[list[report.Measured], list[report.LeftOut]]:
    """Measure the rows, passing the results to `keep` after each: an interrupted run keeps them."""
    done: list[report.Measured] = []
    left_out: list[report.LeftOut] = []
    for row in rows:
        print(f"{row.name} ...", file=sys.stderr, flush=True)
        missing = left_out_of(row, peers)
        for one in missing:
            print(f"  left out: {one}", file=sys.stderr, flush=True)
        left_out += missing
        if all(one.peer for one in missing):
            measured = _measure(bench, row, row.peers(peers))
            done.append(measured)
            for metric in row.metrics:
                print("\n".join(report.lines(measured, metric)), flush=True)
        keep(done, left_out)
    return done, left_out


def left_out_of(row: Row, peers: list[str]) -> list[report.LeftOut]:
    """Return why this row is not measured, or for which peers it is not."""
    programs = [*row.programs, *([store.MOTO] if row.s3 and not store.from_environment() else [])]
    if absent := [program for program in programs if shutil.which(program) is None]:
        return [report.LeftOut(row.name, f"{' and '.join(absent)} not installed")]
    return [report.LeftOut(row.name, reason, peer) for peer, reason in row.left_out(peers).items()]


def _rows(only: str | None) -> list[Row]:
    """Return the rows that were chosen.  Raises Unusable."""
    names = only.split(",") if only is not None else list(ROWS)
    if unknown := sorted(set(names) - set(ROWS)):
        raise Unusable(f"--only: no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    if repeated := _repeated(names):
        raise Unusable(f"--only: {', '.join(repeated)} given more than once; give each row once")
    return [ROWS[name] for name in names]


def _peers(texts: list[str]) -> dict[str, str]:
    """Return the program of each peer by its name.  Raises Unusable."""
    if texts == ["none"]:
        return {}
    if "none" in texts:
        raise Unusable("--peer none measures Moorage alone; leave out the other --peer options, or this one")
    given = [text.partition("=")[0] for text in texts]
    if repeated := _repeated(given):
        raise Unusable(f"--peer: {', '.join(repeated)} given more than once; give each peer once")
    programs = {}
    for text in texts:
        name, _, path = text.partition("=")
        if name == "debian":
            name, path = servers.PEER, path or servers.PEER
        elif name not in {servers.DISTRIBUTION, servers.ZOT} or not path:
            raise Unusable(f"--peer {text}: expected none, debian, distribution=PATH or zot=PATH")
        if shutil.which(path) is None:
            raise Unusable(f"--peer {text}: there is no program {path}; see docs/benchmarks.md for its origin")
        programs[name] = path
    return programs


def _repeated(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _measure(bench: Bench, row: Row, beside: list[str]) -> report.Measured:
    rounds = bench.rounds if row.rounds is None else min(bench.rounds, row.rounds)
    measured = report.Measured(row, row.title_of(bench), beside)
    sides = [*beside, servers.MOORAGE]
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
                    root = home / f"{side}-{number}"
                    numbers = row.alone(bench, side, root)
                    # The memory row in full leaves 32 GiB with a peer that stores a blob once per repository.
                    shutil.rmtree(root, ignore_errors=True)
                    os.sync()
                else:
                    assert row.measure is not None
                    numbers = row.measure(bench, running[side])
                measured.rounds[side].append(numbers)
                values = "  ".join(f"{name}={value:.4g}" for name, value in numbers.items())
                name = row.peer if row.peer and side != servers.MOORAGE else side
                print(f"  round {number + 1} {name}: {values}", file=sys.stderr, flush=True)
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
        help="registry to compare with: debian (default), distribution=PATH, zot=PATH, each once; or none",
    )
    parser.add_argument("--rounds", type=_rounds, default=0, help="measurements of each side (5; quick: 2)")
    parser.add_argument("--seconds", type=_seconds, default=0, help="length of one load (5; quick: 2)")
    parser.add_argument(
        "--s3",
        choices=STORES,
        help="store of the S3 rows, started for this run (default: moto, or the environment's)",
    )
    parser.add_argument("--quick", action="store_true", help="short rounds, small trees")
    parser.add_argument("--full", action="store_true", help="the memory rows with blobs of 1 GiB")
    parser.add_argument("--disk", metavar="FOLDER", help="parent of all storage (default: TMPDIR)")
    parser.add_argument("--out", metavar="FOLDER", default="build/bench", help="for results.json and results.md")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.seconds = options.seconds or (2.0 if options.quick else 5.0)
    return options


def _rounds(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least one round is needed")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("a load lasts longer than 0 seconds")
    return number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
