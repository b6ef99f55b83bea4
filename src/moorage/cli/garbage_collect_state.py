"""State of garbage collection for `moorage garbage-collect`: `--status`, `--pause` and `--resume`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from moorage.config.model import Settings
    from moorage.storage.driver import Driver

__all__ = ["change_pause", "show_status"]


def change_pause(settings: Settings, *, pause: bool) -> None:
    """Pause or resume collection in the whole cluster, and print what that means."""
    from moorage.cli.progress import run_with_progress

    async def work(_: object) -> bool:
        import socket

        from moorage.registry import collection_pause
        from moorage.wiring.storage import opened_driver

        async with opened_driver(settings) as driver:
            was_paused = await collection_pause.read_pause(driver) is not None
            if pause:
                await collection_pause.pause(driver, socket.gethostname())
            else:
                await collection_pause.resume(driver)
            return was_paused

    was_paused = run_with_progress(work, quiet=True, interrupted="see --status")
    if not pause and not was_paused:
        typer.echo("collection was not paused")
        return
    typer.echo(
        "paused: no node begins a run, and one in progress ends where it can be continued; --resume ends the pause"
        if pause
        else "resumed: the next run continues where an interrupted one ended"
    )


def show_status(settings: Settings, *, as_json: bool) -> None:
    """Print whether a run is in progress, where, and whether collection is paused."""
    from moorage.cli.progress import run_with_progress

    facts = run_with_progress(lambda _: _facts(settings), quiet=True, interrupted="nothing was changed")
    if as_json:
        import json

        typer.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        shown = "-" if value is None else value
        if isinstance(value, bool):
            shown = "yes" if value else "no"
        typer.echo(f"{name.replace('_', ' ') + ':':<13}{shown}")


async def _facts(settings: Settings) -> dict[str, str | int | None]:
    from datetime import UTC, datetime

    from moorage.registry.collection_pause import read_pause
    from moorage.registry.collection_state import CONDEMNED, DOOMED, ENDED, RUNNING, list_state
    from moorage.registry.lease import read_holder
    from moorage.wiring.storage import opened_driver

    async with opened_driver(settings) as driver:
        state = await list_state(driver)
        pause = await read_pause(driver)
        holder = await read_holder(driver, "garbage-collection")
        running = sorted(name.token for name in state if name.kind == RUNNING)
        ended = sorted(name.token for name in state if name.kind == ENDED)
        return {
            "run": running[-1] if running else None,
            "begun": await _time(driver, RUNNING, running),
            "node": holder.owner if holder and not holder.has_expired(datetime.now(UTC)) else None,
            "condemned": sum(name.kind == CONDEMNED for name in state),
            "doomed": sum(name.kind == DOOMED for name in state),
            "continuable": any(name.kind == CONDEMNED and name.token in running for name in state),
            "last_run": await _time(driver, ENDED, ended),
            "paused": None if pause is None else f"{pause.at:%Y-%m-%dT%H:%M:%SZ} by {pause.by or 'unknown'}",
        }


async def _time(driver: Driver, kind: str, tokens: list[str]) -> str | None:
    """Return the time at which the newest of these state objects was written, by the clock of the store."""
    from moorage.registry import layout

    if not tokens:
        return None
    stat = await driver.find(layout.collection(f"{kind}.{tokens[-1]}"))
    return None if stat is None else f"{stat.modified:%Y-%m-%dT%H:%M:%SZ}"
