"""OpenStack Swift with its s3api middleware: an S3 that knows no conditional writes.

    with a_swift(folder) as account:
        ...  # account.endpoint speaks S3; account.native Swift's own API, without authentication

One account, container and object server and two proxies, each one process on a port of the kernel's choice, over
one directory with extended attributes, and rings of one device that are built from those ports.  Everything is
in `folder`.  Only Debian's package python3-swift is needed (tools/install_test_programs.py --stores swift): the
servers are started from its modules, so that no user, no service and no /etc/swift is made.
"""

from __future__ import annotations

import getpass
import secrets
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from tests.stores.processes import Account, NoStore, Programs, ask, listening_port, program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["a_swift"]

# Its log goes to its output, and nowhere near the machine's own.
_RUN: Final = """\
import logging, sys
from swift.common import utils
utils.ThreadSafeSysLogHandler = lambda **_: logging.NullHandler()
utils.set_swift_dir(sys.argv[1])
from swift.common.wsgi import run_wsgi
sys.exit(run_wsgi(sys.argv[2], sys.argv[3], verbose=True))
"""
_RING: Final = """\
import sys
from swift.common import utils
utils.set_swift_dir(sys.argv[1])
from swift.common.ring import RingBuilder
ring = RingBuilder(2, 1, 0)
ring.add_dev({"id": 0, "region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(sys.argv[3]), "device": "disk",
              "weight": 1, "replication_ip": "127.0.0.1", "replication_port": int(sys.argv[3])})
ring.rebalance()
ring.get_ring().save(f"{sys.argv[1]}/{sys.argv[2]}.ring.gz")
"""

_HASHES: Final = """\
[swift-hash]
swift_hash_path_prefix = {prefix}
swift_hash_path_suffix = {suffix}
"""

_USUAL: Final = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = 0
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
workers = 0
user = {user}
log_level = WARNING
fallocate_reserve = 0
"""

_STORAGE: Final = """\
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""

_PROXY: Final = """\
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats bulk s3api tempauth copy slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
# All is on one device: no other server could answer in its place.
error_suppression_limit = 1000000
[filter:cache]
use = egg:swift#memcache
# Nobody is there: tempauth wants this filter, and nothing remembered is what tests want.
memcache_servers = 127.0.0.1:9
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {secret} .admin
[filter:s3api]
use = egg:swift#s3api
s3_acl = false
check_bucket_owner = no
dns_compliant_bucket_names = no
min_segment_size = 5242880
location = us-east-1
auth_pipeline_check = true
"""
_NATIVE: Final = """\
[pipeline:main]
pipeline = catch_errors healthcheck cache dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
error_suppression_limit = 1000000
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:9
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:dlo]
use = egg:swift#dlo
"""
_KINDS: Final = ("account", "container", "object")
_FILTERS: Final = ("catch_errors", "gatekeeper", "healthcheck", "listing_formats", "bulk", "copy", "slo", "dlo")


@contextmanager
def a_swift(folder: Path) -> Iterator[Account]:
    """An empty store with one user.  Raises NoStore."""
    with Programs(folder / "swift") as programs:
        yield _started(programs)


def _started(programs: Programs) -> Account:
    # Not the interpreter that this runs in: Swift is a package of Debian's.
    folder, python = programs.folder, program("python3")
    try:
        version = ask(python, "-c", "import swift; print(swift.__version__)", folder=folder).strip()
    except NoStore as error:
        raise NoStore(
            "Swift is not installed: python3 tools/install_test_programs.py --stores swift (as root)"
        ) from error
    (folder / "devices" / "disk").mkdir(parents=True)
    hashes = _HASHES.format(prefix=secrets.token_hex(8), suffix=secrets.token_hex(8))
    (folder / "swift.conf").write_text(hashes)
    usual = _USUAL.format(folder=folder, user=getpass.getuser())

    def start(name: str, text: str, server: str = "") -> int:
        path = folder / f"{name}.conf"
        path.write_text(f"{usual}{text}")
        return programs.start(name, [python, "-c", _RUN, str(folder), str(path), server or name])

    def port(name: str, pid: int) -> int:
        return programs.wait(f"{name} listens", lambda: listening_port(pid), of=name)

    started = {kind: start(f"{kind}-server", _STORAGE.format(kind=kind)) for kind in _KINDS}
    for kind, pid in started.items():
        ask(python, "-c", _RING, folder, kind, str(port(f"{kind}-server", pid)), folder=folder)
    secret = secrets.token_hex(20)
    filters = "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n" for name in _FILTERS)
    pid = start("proxy-server", _PROXY.format(secret=secret) + filters)
    endpoint = f"http://127.0.0.1:{port('proxy-server', pid)}"
    programs.wait("the proxy answers", lambda: _healthy(endpoint), of="proxy-server")
    native_port = port("native-proxy", start("native-proxy", _NATIVE, "proxy-server"))
    native = f"http://127.0.0.1:{native_port}"
    programs.wait("the native proxy answers", lambda: _healthy(native), of="native-proxy")

    def health() -> str:
        return "\n".join(programs.log(f"{name}-server") for name in (*_KINDS, "proxy"))

    name = f"OpenStack Swift {version} s3api"
    return Account(
        "swift", name, endpoint, "test:tester", secret, exact=False, health=health, steps=10,
        native=f"{native}/v1/AUTH_test",
    )  # fmt: skip


def _healthy(endpoint: str) -> bool | None:
    try:
        with urllib.request.urlopen(f"{endpoint}/healthcheck", timeout=5) as answer:
            return True if answer.status == 200 else None
    except (urllib.error.URLError, OSError):
        return None
