"""`moorage storage`: the group of commands that work on what is stored, with or without a running server."""

from __future__ import annotations

import typer

from moorage.cli.storage_check import check
from moorage.cli.storage_copy import copy
from moorage.cli.storage_purge_uploads import purge_uploads
from moorage.cli.storage_rebuild_referrers import rebuild_referrers

__all__ = ["app"]

app = typer.Typer(help="Work on what is stored.", no_args_is_help=True, rich_markup_mode=None)

app.command("copy", short_help="Copy a registry from one store to another.")(copy)
app.command("check", short_help="Find what is damaged, and repair it on request.")(check)
app.command("purge-uploads", short_help="Remove abandoned uploads now.")(purge_uploads)
app.command("rebuild-referrers", short_help="List the signatures and SBOMs of another registry.")(
    rebuild_referrers
)
