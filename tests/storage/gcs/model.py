"""Objects, requests and responses of `gcs/server.py`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

__all__ = ["Refusal", "Request", "Session", "Stored", "answer_of", "matches", "resource"]


@dataclass(frozen=True)
class Request:
    """One request: `what` was asked (`insert`, `get`, `media`, `list`, `compose`, ...), of which object."""

    what: str
    name: str
    query: dict[str, str]
    headers: dict[str, str]

    def __str__(self) -> str:
        return f"{self.what} {self.name}"


@dataclass
class Stored:
    """One object."""

    data: bytes
    kind: str
    metadata: dict[str, str] = field(default_factory=dict)
    generation: int = 0
    created: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass
class Session:
    """One resumable upload."""

    bucket: str
    name: str
    kind: str
    params: dict[str, str]
    data: bytearray = field(default_factory=bytearray)
    done: Stored | None = None


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


def matches(name: str, glob: str | None) -> bool:
    if glob is None:
        return True
    pattern = re.escape(glob).replace(r"\*\*/", "(?:.*/)?").replace(r"\*\*", ".*").replace(r"\*", "[^/]*")
    return re.fullmatch(pattern, name) is not None


def resource(name: str, stored: Stored) -> dict[str, Any]:
    return {
        "kind": "storage#object",
        "name": name,
        "size": str(len(stored.data)),
        "generation": str(stored.generation),
        "contentType": stored.kind,
        "timeCreated": stored.created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        **({"metadata": stored.metadata} if stored.metadata else {}),
    }


def answer_of(refusal: Refusal, *, media: bool) -> web.Response:
    if media:  # these are answered in plain words, or in XML
        return web.Response(status=refusal.status, text=refusal.message)
    output = {
        "code": refusal.status,
        "message": refusal.message,
        "errors": [{"message": refusal.message, "domain": "global", "reason": refusal.reason}],
    }
    return web.json_response({"error": output}, status=refusal.status)
