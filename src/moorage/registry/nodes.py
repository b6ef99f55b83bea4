"""Nodes: each running node publishes its version, so that a garbage collector does not run beside an older one.

    publish   by the housekeeper, every `PUBLISH_S` seconds: one small object per node, replaced
    list      by a collector: nodes whose object is younger than `LIVE_S` are running
    expire    by a collector: objects of nodes that have ended

`PROTOCOL` numbers the rules between requests and collectors (`collection_gate.py`, `gc/`).  It changes when a node
of the previous release would not observe them; then no collection runs until every node has the new one.  Nodes
of releases before the first protocol publish nothing; most of them hold the lease of upload purging, whose
format shows it (`lease.py`).

Source of the key: `layout.py`; CNCF Distribution never lists it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from moorage.registry import layout
from moorage.registry.records import read_record

if TYPE_CHECKING:
    from moorage.storage.driver import Driver

__all__ = ["LIVE_S", "PROTOCOL", "PUBLISH_S", "NodeRecord", "expire", "live_nodes", "publish", "retract"]

PROTOCOL: Final = 1
PUBLISH_S: Final = 300.0
LIVE_S: Final = 900.0
"""Three publications: one may fail, and clocks differ."""
_REMEDY: Final = (
    "nothing is collected while it looks like that of a running node, which writes it again within five minutes; "
    "remove it if the node is gone"
)


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node.  `protocol` is 0 for content that cannot be read; `seen` is the time of its last publication."""

    instance: str
    version: str
    protocol: int
    seen: datetime


async def publish(driver: Driver, instance: str, version: str) -> None:
    """Write, or renew, the record of this node.  Raises StorageError."""
    content = {"version": 1, "release": version, "protocol": PROTOCOL}
    await driver.write(layout.node(instance), json.dumps(content).encode())


async def retract(driver: Driver, instance: str) -> None:
    """Remove the record of this node, which ends.  Raises StorageError."""
    await driver.delete([layout.node(instance)])


async def live_nodes(driver: Driver, *, now: datetime) -> list[NodeRecord]:
    """Return the nodes that are running, by the clock of the store.  Raises StorageUnavailable.

    A record from the future counts as that of a running node: its clock, or this one, is wrong.
    """
    return [node for node in await _nodes(driver) if node.seen > now - timedelta(seconds=LIVE_S)]


async def expire(driver: Driver, *, now: datetime) -> None:
    """Remove the records of nodes that have not been seen for a long time.  Raises StorageUnavailable."""
    old = now - timedelta(seconds=10 * LIVE_S)
    await driver.delete([layout.node(node.instance) for node in await _nodes(driver) if node.seen < old])


async def _nodes(driver: Driver) -> list[NodeRecord]:
    found: list[NodeRecord] = []
    async for page in driver.scan(layout.NODES):
        for stat in page:
            instance = stat.key.removeprefix(f"{layout.NODES}/")
            fields = await read_record(driver, stat.key, remedy=_REMEDY)
            if fields is None:
                continue
            protocol = fields.get("protocol", 0)
            known = protocol if isinstance(protocol, int) else 0
            found.append(NodeRecord(instance, str(fields.get("release", "unknown")), known, stat.modified))
    return found
