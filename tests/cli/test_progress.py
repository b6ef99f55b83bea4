"""Progress where there is no terminal: lines now and then; and the bar where there is one."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

import pytest
import typer

from moorage.cli.progress import format_bytes, format_count, progress_meter, run_with_progress
from moorage.storage.driver import StorageUnavailable

if TYPE_CHECKING:
    from moorage.cli.progress import Meter


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 20, "5.0 MiB"), (3 << 50, "3072.0 TiB")],
)
def test_sizes(size: int, text: str) -> None:
    assert format_bytes(size) == text


def test_a_line_when_something_begins_and_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    """The log of a nightly job must show progress, and not have one line per blob."""
    now = [100.0]
    with progress_meter(quiet=False, clock=lambda: now[0]) as meter:
        meter.begin("copying", None, is_bytes=True)
        meter.grow(3 << 20)
        for _ in range(100):
            now[0] += 0.125
            meter.advance(10 << 10)
        now[0] += 11
        meter.describe("2 repositories")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "copying",
        "copying: 800.0 KiB of 3.0 MiB, 80.0 KiB/s",
        "copying: 1000.0 KiB of 3.0 MiB, 42.6 KiB/s; 2 repositories",
        "copying: 1000.0 KiB of 3.0 MiB in 23.5 s; 2 repositories",
    ]


def test_each_part_ends_with_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """A phase of less than ten seconds has no other line with a number, nor has an interrupted one."""
    now = [100.0]
    with pytest.raises(KeyboardInterrupt), progress_meter(quiet=False, clock=lambda: now[0]) as meter:  # noqa: PT012
        meter.begin("objects listed", None)
        meter.advance(7)
        now[0] += 1.25
        meter.begin("repositories", 3)
        meter.advance(2)
        raise KeyboardInterrupt
    assert capsys.readouterr().err.splitlines() == [
        "objects listed",
        "objects listed: 7 in 1.2 s",
        "repositories",
        "repositories: 2 of 3 in 0.0 s",
    ]


def test_an_exceeded_total_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """`35 of 34` looks like a mistake; the total was an estimate."""
    with progress_meter(quiet=False, clock=lambda: 1.0) as meter:
        meter.begin("links deleted", 34)
        meter.advance(35)
    assert capsys.readouterr().err.splitlines()[-1] == "links deleted: 35 in 0.0 s"


def test_nothing_begun_is_nothing_written(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_meter(quiet=False):
        pass
    assert capsys.readouterr() == ("", "")


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_meter(quiet=True) as meter:
        meter.begin("copying", 5)
        meter.grow(5)
        meter.advance(5)
        meter.describe("done")
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Amounts, totals and the description are beside it; results go to standard output unchanged."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress_meter(quiet=False) as meter:
        meter.begin("copying", None, is_bytes=True)
        meter.grow(4 << 20)
        meter.advance(1 << 20)
        meter.describe("3 repositories")
    assert "1.0 MiB of 4.0 MiB" in terminal.getvalue()
    assert "3 repositories" in terminal.getvalue()


def test_what_the_work_returns_comes_back(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output has the results of the command and nothing else."""

    async def work(meter: Meter) -> int:
        meter.begin("counting", 3)
        return 3

    assert run_with_progress(work, quiet=False, interrupted="") == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("counting\ncounting: 0 of 3 in ")


@pytest.mark.parametrize(
    ("advice", "message"), [("", "stopped: away\n"), ("run it again", "stopped: away\nrun it again\n")]
)
def test_a_store_that_fails_is_reported_without_a_traceback(
    advice: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cron mails it to an operator who need not read Python."""

    async def work(_: Meter) -> None:
        raise StorageUnavailable("away")

    with pytest.raises(typer.Exit) as ended:
        run_with_progress(work, quiet=True, interrupted="no", stopped=advice)
    assert ended.value.exit_code == 1
    assert capsys.readouterr() == ("", message)


def test_an_interruption_has_the_status_that_shells_know(capsys: pytest.CaptureFixture[str]) -> None:
    """A script that runs the command in a loop ends with it."""

    async def work(_: Meter) -> None:
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as ended:
        run_with_progress(work, quiet=True, interrupted="what was reported holds", stopped="no")
    assert ended.value.exit_code == 130
    assert capsys.readouterr() == ("", "interrupted; what was reported holds\n")


def test_numbers_agree_with_what_they_count() -> None:
    """`1 manifests` is how a bug report begins."""
    assert [format_count(count, "tag") for count in (0, 1, 2)] == ["0 tags", "1 tag", "2 tags"]
    assert format_count(1, "repository", "repositories") == "1 repository"
    assert format_count(3, "repository", "repositories") == "3 repositories"
