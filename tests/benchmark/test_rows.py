"""Rows of the benchmark: their work is dealt out as their titles claim, and names, goals and reasons fit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bench import __main__ as command
from bench import report, servers
from bench.rows import ROWS, collection, zb
from bench.rows.base import Bench, Row
from bench.volume import Volume, blob_sizes

from moorage.types import Digest


def _bench(kind: str) -> Bench:
    return Bench(0, (1,), Path("/nowhere"), 1, 1.0, kind == "quick", kind == "full")


@pytest.mark.parametrize("kind", ["quick", "usual", "full"])
@pytest.mark.parametrize("size", [1, 10, 100])
def test_a_quarter_of_a_mixed_run_is_pushes(kind: str, size: int) -> None:
    """The title is 25 %; a client's own numbers would give none to clients with fewer than four operations."""
    title = ROWS[f"zb-mixed-{size}"].title_of(_bench(kind))
    count = int(title.removesuffix(" times").rpartition(" ")[2])
    dealt = [zb.deal([size] * count, zb.CLIENTS, client) for client in range(zb.CLIENTS)]
    indices = sorted(index for one in dealt for index, _ in one)
    assert indices == list(range(count)), "each operation is done once"
    assert sum(map(zb.is_push, indices)) * 4 == count


def test_operations_are_dealt_out_evenly_with_their_sizes() -> None:
    assert zb.deal([1, 10, 100, 1, 10], 2, 0) == [(0, 1), (2, 100), (4, 10)]
    assert zb.deal([1, 10, 100, 1, 10], 2, 1) == [(1, 10), (3, 1)]


@pytest.mark.parametrize("kind", ["quick", "usual", "full"])
def test_every_title_is_one_cell_of_a_table(kind: str) -> None:
    for row in ROWS.values():
        title = row.title_of(_bench(kind))
        assert title
        assert not set("|\n{}") & set(title), title


def test_titles_have_the_sizes_of_the_run() -> None:
    assert "64 MiB" in ROWS["memory"].title_of(_bench("quick"))
    assert "1024 MiB" in ROWS["tls-memory"].title_of(_bench("full"))
    assert "10,000 tags" in ROWS["tags-list"].title_of(_bench("quick"))
    assert "208 images" in ROWS["images-push"].title_of(_bench("usual"))


@pytest.mark.parametrize("name", ["memory", "tls-memory"])
def test_the_memory_of_a_worker_has_one_goal_with_and_without_tls(name: str) -> None:
    (metric,) = ROWS[name].metrics
    assert (metric.goal, metric.goal_of) == (150, "value")


def test_a_number_has_one_name_in_a_row() -> None:
    for row in ROWS.values():
        names = [metric.name for metric in row.metrics]
        assert len(names) == len(set(names)), row.name


def test_a_peer_that_cannot_do_a_row_is_left_out_with_the_reason() -> None:
    peers = [servers.PEER, servers.DISTRIBUTION, servers.ZOT]
    for name in ("tags-list", "catalog"):
        assert ROWS[name].peers(peers) == peers[:2]
        (left_out,) = command.left_out_of(ROWS[name], peers)
        assert (left_out.row, left_out.peer) == (name, servers.ZOT)
        assert left_out.reason
    assert command.left_out_of(ROWS["tls-get"], peers) == []
    assert command.left_out_of(ROWS["auth-token"], peers) == [], "ours alone, whatever the peers"


def test_a_row_whose_program_is_missing_is_left_out_whole() -> None:
    row = Row("a-row", "a row", (), programs=("no-such-program",))
    assert command.left_out_of(row, [servers.PEER]) == [report.LeftOut("a-row", "no-such-program not installed")]


@pytest.mark.parametrize(
    ("side", "blobs"),
    [
        (servers.ZOT, "library/large/blobs/sha256/0123"),
        (servers.MOORAGE, "docker/registry/v2/blobs/sha256/01/0123/data"),
    ],
)
def test_the_disk_is_emptied_in_the_layout_of_the_side(side: str, blobs: str, tmp_path: Path) -> None:
    """The next push would otherwise share the disk with the write-back of the one before."""
    others = [tmp_path / "library/large/index.json", tmp_path / "docker/registry/v2/repositories/a/link"]
    for path in (tmp_path / blobs, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"bytes")
    _stopped(side, tmp_path).empty()
    assert not (tmp_path / blobs).exists()
    assert all(path.exists() for path in others)


def _stopped(side: str, root: Path) -> servers.Server:
    """A server that is not asked for its process."""
    return servers.Server(side, None, root, root / "log")  # type: ignore[arg-type]


def test_the_store_for_collections_is_what_its_title_claims(tmp_path: Path) -> None:
    """A store with other numbers makes the comparison with other measurements worthless."""
    volume = Volume(3, images=4, links=12, dead=5)
    volume.write(tmp_path / "store")
    home = tmp_path / "store/docker/registry/v2"
    assert len(list(home.glob("repositories/*/*/_layers/sha256/*/link"))) == 3 * 12
    assert len(list(home.glob("repositories/*/*/_manifests/revisions/sha256/*/link"))) == 3 * 4
    assert len(list(home.glob("repositories/*/*/_manifests/tags/*/current/link"))) == 3 * 2
    sizes = blob_sizes(tmp_path / "store")
    assert len(sizes) == 8 + 5 + 3 * 4 * 2, "layers, dead ones, configs and manifests"
    assert sum(sizes.values()) == sum(path.stat().st_size for path in home.glob("blobs/sha256/*/*/data"))
    tags = volume.some_tags(tmp_path / "store", 2)
    assert [tag.parts[-4] for tag in tags] == ["app-0", "app-1"]
    assert all(tag.is_dir() for tag in tags)
    for path in home.glob("blobs/sha256/*/*/data"):
        assert str(Digest.of(path.read_bytes())) == f"sha256:{path.parent.name}"


def test_collections_are_measured_by_their_own_process(tmp_path: Path) -> None:
    """A failed run must not look like a quick one."""
    bench = Bench(min(os.sched_getaffinity(0)), (1,), tmp_path, 1, 1.0, quick=True, full=False)
    servers.PROGRAMS.add("true", "true")
    servers.PROGRAMS.add("false", "false")
    used = collection._run(bench, "true", tmp_path / "config.yml")
    assert used.seconds > 0
    assert used.work_s == used.seconds
    assert used.cpu_s >= 0
    assert 100_000 < used.peak_bytes < 40 << 20, "not the memory of this process"
    with pytest.raises(servers.ServerFailed, match="false garbage-collect ended with 1"):
        collection._run(bench, "false", tmp_path / "config.yml")


def test_what_one_side_alone_removes_is_counted(tmp_path: Path) -> None:
    first = tmp_path / "left.json"
    assert collection._differing(first, [["a", "b"], ["a"]]) == 0
    assert collection._differing(first, [["a", "b"], ["a"]]) == 0
    assert collection._differing(first, [["a", "c"], ["a"]]) == 2
    assert collection._differing(first, [["a", "b"], []]) == 1
