"""The tests of S3 against S3 servers that are not moto: `python3 dev.py stores`.

    python3 dev.py stores                       Ceph's radosgw, then OpenStack Swift's s3api
    python3 dev.py stores radosgw               one of them
    python3 dev.py stores swift -- -x -k cluster    what comes after -- goes to pytest
    python3 dev.py stores radosgw --hold        start it, tell how to reach it, and wait for Ctrl-C

Each store is started in a temporary folder on loopback and goes away with it, however this ends.  The last thing
printed is a table of what passed, what failed, and what the store cannot pass by its nature; the exit status is 0
only if nothing failed and everything ran.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from tests.stores.known import STORES
from tests.stores.processes import NoStore
from tests.stores.summary import Outcome, read, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.stores.processes import Account

__all__ = ["main"]

ROOT: Final = Path(__file__).resolve().parent.parent.parent
_CLEAN_UP_S: Final = 120.0
_INTERRUPTED: Final = 130


@dataclass(frozen=True)
class Part:
    """Some tests; `only` is pytest's -k, `stores` those that the tests are about (none: all)."""

    name: str
    tests: Sequence[str]
    only: str = ""
    stores: Sequence[str] = ()


_CLI: Final = "tests/cli/test_copy_and_check.py"
PARTS: Final = (
    Part("the driver's contract", ["tests/storage/test_contract.py::TestS3"]),
    Part("limits, joins, leftovers", ["tests/storage/s3/test_store.py"]),
    Part("addresses, authorities, proxies", ["tests/storage/s3/test_network.py"]),
    Part("failures, lost answers", ["tests/storage/s3/test_trouble.py", "tests/storage/s3/test_credentials.py"]),
    Part("death at any request", ["tests/storage/s3/test_steps.py"]),
    Part("signed URLs, expiry, tampering", ["tests/storage/s3/test_signed.py"]),
    Part("redirects behind middleware", ["tests/http/test_redirects.py"], "bucket"),
    Part("real clients", ["tests/clients/test_bucket.py"]),
    Part("one bucket with docker-registry", ["tests/interop/test_buckets.py"]),
    Part("a container of 2.8's native driver", ["tests/stores/test_old_swift.py"], stores=("swift",)),
    Part("two nodes behind HAProxy and nginx", ["tests/cluster/test_cluster.py"], "s3"),
    Part(
        "storage copy and check",
        ["tests/moving", "tests/checking", f"{_CLI}::test_variables_apply_to_the_side_that_they_name",
         f"{_CLI}::test_a_volume_of_the_old_registry_is_clean_and_moves",
         f"{_CLI}::test_a_store_that_cannot_be_read_is_one_line"],
        "s3 or bucket or copy_and_check",
    ),
)  # fmt: skip


@dataclass
class Job:
    """One run.  `tables` are the tables of the stores that are done."""

    scratch: Path
    arguments: Sequence[str]
    tables: list[str] = field(default_factory=list)
    failed: bool = False

    def run(self, store: str) -> None:
        """All parts against one store."""
        began = time.monotonic()
        _say(f"{store}: starting ...")
        try:
            with STORES[store](self.scratch) as account:
                _say(f"{account.version} answers at {account.endpoint}, after {time.monotonic() - began:.0f} s")
                self._test(account)
        except NoStore as error:
            self.failed = True
            self.tables.append(f"{store} did not start: {error}")

    def _test(self, account: Account) -> None:
        outcomes: list[Outcome] = []
        try:
            for part in PARTS:
                if part.stores and account.store not in part.stores:
                    continue
                _say(f"{account.store}: {part.name} ...")
                outcomes.append(self._part(account, part))
                if outcomes[-1].failed:
                    _say(f"{account.store} says of itself:\n{account.health()}")
        finally:
            if outcomes:
                self.tables.append(table(account.version, outcomes))
        # With arguments of one's own, such as -k, a part may be empty.
        self.failed |= not all(one.good or (self.arguments and _empty(one)) for one in outcomes)

    def _part(self, account: Account, part: Part) -> Outcome:
        report, began = self.scratch / "report.xml", time.monotonic()
        report.unlink(missing_ok=True)
        command = [
            sys.executable, "-m", "pytest", "-q", "--no-header", "-r", "fE", "--timeout", "900",
            "--basetemp", str(self.scratch / "pytest"), "--junit-xml", str(report),
            *(["-k", part.only] if part.only else []), *self.arguments, *part.tests,
        ]  # fmt: skip
        # Missing programs fail: the run is one of everything, or it is no run.
        environment = {**os.environ, **account.environment(), "MOORAGE_REQUIRE_ALL": "1"}
        status = _run(command, environment)
        return read(part.name, status, report, time.monotonic() - began)


def _empty(outcome: Outcome) -> bool:
    return outcome.status == 5 and not outcome.failed  # pytest: no tests were collected


def _run(command: Sequence[str], environment: dict[str, str]) -> int:
    """The exit status.  However the wait ends, pytest gets time to end what its tests have started."""
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        return process.wait()
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt):
            process.send_signal(signal.SIGINT)  # the terminal sends Ctrl-C to it as well
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_CLEAN_UP_S)
        process.kill()
        process.wait()
        raise


def _say(text: str) -> None:
    print(f"== {text}", flush=True)


def _stop(number: int, _: object) -> NoReturn:
    """Once; nothing disturbs the cleaning up after it."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def main(arguments: list[str]) -> int:
    given, rest = arguments, []
    if "--" in arguments:
        place = arguments.index("--")
        given, rest = arguments[:place], arguments[place + 1 :]
    hold = "--hold" in given
    names = [name for name in given if name != "--hold"]
    if not set(names) <= set(STORES) or (hold and len(names) != 1):
        print(__doc__, file=sys.stderr)
        return 2
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _stop)
    with tempfile.TemporaryDirectory(prefix="moorage-stores-", ignore_cleanup_errors=True) as scratch:
        if hold:
            return _hold(names[0], Path(scratch))
        job = Job(Path(scratch), rest)
        try:
            for name in names or STORES:
                job.run(name)
        except KeyboardInterrupt:
            print("\ninterrupted: all that was started is ended", file=sys.stderr)
            return _INTERRUPTED
        finally:
            print("\n\n".join(["", *job.tables]), flush=True)
        return 1 if job.failed else 0


def _hold(name: str, scratch: Path) -> int:
    """Until Ctrl-C, for tests, benchmarks and clients by hand."""
    try:
        with STORES[name](scratch) as account:
            for variable, value in account.environment().items():
                print(f"export {variable}='{value}'")
            _say(f"{account.version} answers at {account.endpoint} until Ctrl-C")
            signal.pause()
    except NoStore as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    raise AssertionError("unreachable: signals end it")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
