"""Ceph's radosgw without a Ceph cluster: one monitor, one OSD that keeps all in memory, no manager, no keys.

    with a_radosgw(folder) as account:
        ...  # account.endpoint speaks S3, and checks signatures and their expiry

Everything is in `folder`; Debian's packages radosgw, ceph-mon, ceph-osd and ceph-common must be installed
(tools/install_test_programs.py --stores radosgw).

What is deleted is freed after seconds, not after the usual two hours: an OSD that is full answers nothing at all.

The line that matters is `ms mon client mode = crc`: radosgw insists on an encrypted session with the monitor
otherwise, which needs keys, and waits for ever ("get_initial_auth_request returned -13").
"""

from __future__ import annotations

import json
import secrets
import urllib.error
import urllib.request
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from tests.stores.processes import Account, NoStore, Programs, ask, free_port, listening_port, program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["a_radosgw"]

_ATTEMPTS: Final = 3
_PORTS: Final = 100
_MEMORY_BYTES: Final = 6 << 30

_CONFIGURATION: Final = """\
[global]
fsid = {cluster}
mon host = [v2:127.0.0.1:{monitor}]
mon initial members = a
auth cluster required = none
auth service required = none
auth client required = none
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind msgr1 = false
ms bind port min = {first}
ms bind port max = {last}
run dir = {folder}
admin socket = {folder}/$name.asok
pid file = {folder}/$name.pid
log file = {folder}/$name.own.log
crash dir = {folder}
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon warn on pool no redundancy = false
osd objectstore = memstore
memstore device bytes = {memory}
[mon]
mon data = {folder}/mon
mon data avail crit = 1
[osd]
osd data = {folder}/osd
[client.rgw]
rgw data = {folder}/rgw
rgw gc obj min wait = 1
rgw gc processor period = 5
rgw gc processor max time = 5
rgw frontends = beast endpoint=127.0.0.1:{gateway}
ms mon client mode = crc
"""


@contextmanager
def a_radosgw(folder: Path) -> Iterator[Account]:
    """An empty store with one user.  Raises NoStore."""
    for attempt in range(1, _ATTEMPTS + 1):
        home = folder / f"radosgw-{attempt}"
        with Programs(home, {"CEPH_CONF": str(home / "ceph.conf")}) as programs:
            try:
                account = _started(programs)
            except NoStore as error:
                # Another process was faster to take one of the ports.
                if "ddress already in use" in str(error) and attempt < _ATTEMPTS:
                    continue
                raise
            yield account
            return


def _started(programs: Programs) -> Account:
    folder, configuration = programs.folder, programs.folder / "ceph.conf"
    mon, osd, gateway, ceph, admin = map(program, ("ceph-mon", "ceph-osd", "radosgw", "ceph", "radosgw-admin"))
    monitor, cluster, disk, first = free_port(), uuid.uuid4(), uuid.uuid4(), free_port()
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir()
    configuration.write_text(
        _CONFIGURATION.format(
            cluster=cluster, monitor=monitor, first=first, last=min(first + _PORTS, 65535), folder=folder,
            memory=_MEMORY_BYTES, gateway=free_port(),
        )
    )  # fmt: skip

    def run(*command: str | Path) -> str:
        return ask(*command, folder=folder, environment=programs.environment)

    address = f"[v2:127.0.0.1:{monitor}]"
    run(program("monmaptool"), "--create", "--fsid", str(cluster), "--addv", "a", address, folder / "monmap")
    run(mon, "-i", "a", "--mkfs", "--monmap", folder / "monmap")
    pid = programs.start("ceph-mon", [mon, "-i", "a", "-f"])
    programs.wait("the monitor listens", lambda: listening_port(pid), of="ceph-mon")
    run(ceph, "--connect-timeout", "60", "osd", "new", str(disk), "0")
    run(osd, "-i", "0", "--mkfs", "--osd-uuid", str(disk))
    programs.start("ceph-osd", [osd, "-i", "0", "-f"])

    def up() -> bool | None:
        return True if json.loads(run(ceph, "osd", "stat", "-f", "json"))["num_up_osds"] else None

    programs.wait("the OSD is up", up, of="ceph-osd")
    pid = programs.start("radosgw", [gateway, "-n", "client.rgw", "-f"])
    port = programs.wait("radosgw listens", lambda: listening_port(pid), of="radosgw")
    endpoint = f"http://127.0.0.1:{port}"
    programs.wait("radosgw answers", lambda: _answers(endpoint), of="radosgw")
    access_key, secret_key = f"AK{secrets.token_hex(9).upper()}", secrets.token_urlsafe(30)
    run(
        admin, "-n", "client.rgw", "user", "create", "--uid=moorage", "--display-name=moorage",
        f"--access-key={access_key}", f"--secret={secret_key}",
    )  # fmt: skip
    version = run(gateway, "--version").split()[2]

    def health() -> str:
        return f"{run(ceph, 'health', 'detail')}\n{programs.log('radosgw')}"

    return Account(
        "radosgw", f"Ceph radosgw {version}", endpoint, access_key, secret_key, exact=False, health=health
    )


def _answers(endpoint: str) -> bool | None:
    try:
        with urllib.request.urlopen(endpoint, timeout=5) as answer:
            return bool(answer.status)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return None
