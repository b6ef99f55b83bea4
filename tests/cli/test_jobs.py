"""How long work on a store ends before its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import typer

from moorage.cli.jobs import carry_out
from moorage.storage.driver import StorageUnavailable

if TYPE_CHECKING:
    from moorage.cli.progress import Meter


def test_what_the_work_returns_comes_back(capsys: pytest.CaptureFixture[str]) -> None:
    """Results are the command's to tell; standard output is its own."""

    async def work(meter: Meter) -> int:
        meter.begin("counting", 3)
        return 3

    assert carry_out(work, quiet=False, interrupted="") == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("counting\ncounting: 0 of 3 in ")


@pytest.mark.parametrize(
    ("advice", "told"), [("", "stopped: away\n"), ("run it again", "stopped: away\nrun it again\n")]
)
def test_a_store_that_fails_is_told_without_a_traceback(
    advice: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cron mails it to somebody who cannot read Python."""

    async def work(_: Meter) -> None:
        raise StorageUnavailable("away")

    with pytest.raises(typer.Exit) as ended:
        carry_out(work, quiet=True, interrupted="no", stopped=advice)
    assert ended.value.exit_code == 1
    assert capsys.readouterr() == ("", told)


def test_an_interruption_has_the_status_that_shells_know(capsys: pytest.CaptureFixture[str]) -> None:
    """A script that calls us in a loop ends with it."""

    async def work(_: Meter) -> None:
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as ended:
        carry_out(work, quiet=True, interrupted="what was told holds", stopped="no")
    assert ended.value.exit_code == 130
    assert capsys.readouterr() == ("", "interrupted; what was told holds\n")
