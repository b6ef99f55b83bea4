"""Death inside every system call of a push, failing fsyncs, and the order in which bytes reach the disk."""

from __future__ import annotations

import http.client
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.faults.inject import tampering, tracing
from tests.faults.ledger import Account, Ledger
from tests.live import start_moorage, start_tested, with_customized
from tests.moments import sampled
from tests.wire import Wire, image

from moorage.types import Digest

if TYPE_CHECKING:
    from tests.live import Live

pytestmark = [pytest.mark.fault, pytest.mark.root, pytest.mark.slow]

NAME = "calls/app"
ONE_WORKER = {"workers": 1}


def push(wire: Wire, account: Account, text: bytes) -> None:
    """An image of one layer to `v0`, entered into the ledger step by step; the layer in two PATCHes and a PUT."""
    layer = text * 1000
    begun = wire.start_upload(NAME)
    assert begun.status == 202, begun
    first = wire.patch(begun.headers["location"], layer[:500])
    assert first.status == 202, first
    second = wire.patch(first.headers["location"], layer[500:900])
    assert second.status == 202, second
    done = wire.finish(second.headers["location"], Digest.of(layer), layer[900:])
    assert done.status == 201, done
    account.blobs[Digest.of(layer)] = layer
    account.blobs[wire.push_blob(NAME, text)] = text
    manifest = image(text, [layer])
    digest = Digest.of(manifest)
    account.tags.setdefault("v0", {""}).add(str(digest))
    answer = wire.put_manifest(NAME, "v0", manifest)
    assert answer.status == 201, answer
    account.manifests[digest] = manifest
    account.tags["v0"] = {str(digest)}


@pytest.mark.timeout(900)
def test_death_at_any_step_towards_the_disk_leaves_nothing_torn(tmp_path: Path) -> None:
    """Each write, sync, rename, ... of a push is the last one once; CI tries every 17th, `dev.py moments` all.

    The push moves a tag and sends a layer again that is there already: what was acknowledged is at stake.
    """
    ledger, root, armed = Ledger([Account(NAME)]), tmp_path / "volume", tmp_path / "armed"
    (account,) = ledger.accounts
    dying = {**with_customized(Path(__file__).parent / "dying"), "MOORAGE_DIES_AT": str(armed)}
    with start_moorage(root, http=ONE_WORKER) as live:
        push(Wire(live.host), account, b"before any crash")
    for step in range(1, 500, sampled(17, 1)):
        with start_moorage(root, http=ONE_WORKER, environment=dying) as live:
            ledger.audit(Wire(live.host), everything=True)
            armed.write_text(str(step))
            survived = pushes(live, account, b"step %d" % step) and pushes(live, account, b"before any crash")
            live.kill()
            armed.unlink()
        if survived:
            break
    assert survived, "a push has more steps than were tried"
    assert step > 20, "hardly any step was seen: are these still the calls that the driver makes?"
    with start_moorage(root, http=ONE_WORKER) as live:
        ledger.audit(Wire(live.host), everything=True)
        push(Wire(live.host), account, b"after all crashes")
    print(f"a push survived death at step {step}: it has fewer")  # noqa: T201


def pushes(live: Live, account: Account, text: bytes) -> bool:
    """Push; whether the server lived to answer."""
    try:
        push(Wire(live.host), account, text)
    except (OSError, http.client.HTTPException):
        return False
    return True


@pytest.mark.parametrize("calls", ["/^rename", "/^fsync|^fdatasync", "/^link"])
def test_death_inside_a_call_leaves_nothing_torn(calls: str, tmp_path: Path) -> None:
    """The first, the second, ... such call of a push is its last: each gap between two steps is tried."""
    ledger, root = Ledger([Account(NAME)]), tmp_path / "volume"
    (account,) = ledger.accounts
    with start_tested(root, http=ONE_WORKER) as live:
        push(Wire(live.host), account, b"before any crash")
    for number in range(1, 5):
        with start_tested(root, http=ONE_WORKER) as live:
            ledger.audit(Wire(live.host), everything=True)
            push(Wire(live.host), account, b"push number %d" % number)
            with tampering(live.workers, calls, f"signal=KILL:when={number}"):
                survived = pushes(live, account, b"push that dies %d" % number)
            live.kill()
        if survived:
            break
    with start_tested(root, http=ONE_WORKER) as live:
        ledger.audit(Wire(live.host), everything=True)


def test_a_failing_fsync_is_not_an_acknowledgement(tmp_path: Path) -> None:
    """A disk that cannot promise must not be promised for: 5xx, the cause in the log, and on with the work."""
    ledger = Ledger([Account(NAME)])
    (account,) = ledger.accounts
    with start_tested(tmp_path / "volume") as live:
        wire = Wire(live.host)
        push(wire, account, b"before")
        manifest = image(b"before", [])
        with tampering(live.workers, "fsync,fdatasync", "error=EIO"):
            refused = [
                wire.put_manifest(NAME, "v0", manifest).status,
                wire.put_manifest(NAME, "new", manifest).status,
                _whole_blob(wire, b"never durable"),
            ]
        assert refused == [503, 503, 503]
        live.logged("nput/output error")
        lines = [line for line in live.logs().splitlines() if "the storage failed" in line]
        assert len(lines) == 3, "each failure is one line"
        assert all(f"{tmp_path}/volume/docker/" in line and "(EIO)" in line for line in lines), lines
        assert "Traceback" not in live.logs()
        ledger.audit(wire, everything=True)
        assert wire.blob(NAME, Digest.of(b"never durable")).status == 404
        push(wire, account, b"after")
        account.blobs[wire.push_blob(NAME, b"never durable")] = b"never durable"
        ledger.audit(wire, everything=True)
    with start_tested(tmp_path / "volume") as live:
        ledger.audit(Wire(live.host), everything=True)


def test_a_failing_fdatasync_while_an_upload_is_left_is_a_refusal(tmp_path: Path) -> None:
    """The bytes of a chunk are not promised, and the upload continues from those that were."""
    with start_tested(tmp_path / "volume", http=ONE_WORKER) as live:
        wire = Wire(live.host)
        first = wire.patch(wire.start_upload(NAME).headers["location"], b"kept")
        assert first.status == 202, first
        with tampering(live.workers, "fdatasync", "error=EIO"):
            answer = wire.patch(first.headers["location"], b" and lost")
        assert (answer.status, answer.codes) == (503, ["UNAVAILABLE"]), answer
        live.logged("fdatasync: Input/output error (EIO)")
        assert live.logs().count("the storage failed") == 1
        assert "Traceback" not in live.logs()
        at = wire.send("GET", first.headers["location"])
        assert at.headers["range"] == "0-3", at
        done = wire.finish(at.headers["location"], Digest.of(b"kept and sent"), b" and sent")
        assert done.status == 201, done
        assert wire.blob(NAME, Digest.of(b"kept and sent")).body == b"kept and sent"


def test_a_process_without_descriptors_names_the_limit(tmp_path: Path) -> None:
    """The storage is well: an operator who reads that it failed would look in the wrong place."""
    with start_tested(tmp_path / "volume", http=ONE_WORKER) as live:
        wire = Wire(live.host)
        push(wire, Account(NAME), b"before")
        with tampering(live.workers, "mkdir,mkdirat", "error=EMFILE"):
            answer = wire.start_upload("calls/new")
        assert answer.status == 503, answer
        assert answer.json()["errors"][0]["detail"] == "the registry has too many open files; try again later"
        live.logged("LimitNOFILE=")
        assert "the storage failed" not in live.logs()


def _whole_blob(wire: Wire, data: bytes) -> int:
    """The first status of a POST and PUT that is not a success, else the last."""
    begun = wire.start_upload(NAME)
    if begun.status != 202:
        return begun.status
    return wire.finish(begun.headers["location"], Digest.of(data), data).status


def test_bytes_reach_the_disk_before_their_name_and_names_before_the_answer(tmp_path: Path) -> None:
    """SIGKILL does not show a missing fsync, a power cut does.  So: all that is renamed into place was synced
    under its old name first, and the directory it came into afterwards; read off the system calls of a push.
    """
    log = tmp_path / "calls"
    with start_tested(tmp_path / "volume", http=ONE_WORKER) as live:
        push(Wire(live.host), Account(NAME), b"the first push makes the directories")
        with tracing(live.workers, "/^rename|^fsync|^fdatasync|^link|^mkdir", log):
            push(Wire(live.host), Account(NAME), b"the second is watched")
    # Hash states are not waited for: one that a power cut tore is not taken, and the bytes are read again.  Nor
    # are the empty files named after the offset of an upload: one that is lost means an earlier offset.
    events = [event for event in _events(log) if "/hashstates/" not in event[1] and "/offset." not in event[1]]
    moves = [event for event in events if event[0] == "move"]
    assert len(moves) >= 5, f"two blobs, their links, a revision and a tag:\n{log.read_text()}"
    for number, (kind, source, target) in enumerate(events):
        before = {path for event, path, _ in events[:number] if event == "sync"}
        after = {path for event, path, _ in events[number:] if event == "sync"}
        folder = target.rpartition("/")[0]
        if kind == "move":
            assert source in before, f"{source} was moved to {target} before it was synced:\n{log.read_text()}"
        if kind in {"move", "mkdir"} and "/_uploads" not in target:
            assert folder in after, f"{folder} was not synced after {target} came into it:\n{log.read_text()}"


def _events(log: Path) -> list[tuple[str, str, str]]:
    """("sync", path, "") and ("move", from, to) in order; strace splits calls that overlap in two lines."""
    events, started = [], {}
    for line in log.read_text().splitlines():
        thread, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith("<unfinished ...>"):
            started[thread] = call.removesuffix("<unfinished ...>")
            continue
        if call.startswith("<... "):
            call = started.pop(thread) + call.partition("resumed>")[2]
        if not re.search(r"= 0\b", call):
            continue
        if synced := re.match(r"f(?:data)?sync\(\d+<([^>]*)>", call):
            events.append(("sync", synced[1], ""))
        elif moved := re.match(r"(?:rename|link)\w*\((.*)\)\s+= 0", call):
            paths = re.findall(r'(?:<([^>]*)>, )?"([^"]*)"', moved[1])
            whole = [path if path.startswith("/") else f"{folder}/{path}" for folder, path in paths]
            events.append(("move", whole[0], whole[1]))
        elif made := re.match(r'mkdir(?:at)?\((?:[^,]*<([^>]*)>, )?"([^"]*)"', call):
            events.append(("mkdir", "", made[2] if made[2].startswith("/") else f"{made[1]}/{made[2]}"))
    return events
