"""deploy/monitoring/dashboard.json: Prometheus parses each expression; a live registry has data for each panel."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
from base64 import b64encode
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import bcrypt
import pytest
import trustme
import yaml
from tests.live import require
from tests.monitoring.test_alerts import FILE as ALERTS
from tests.monitoring.test_alerts import promtool
from tests.ports import free_port
from tests.server.debugging import Debugged, debug_port, debugged, get, until
from tests.server.serving import serving
from tests.wire import Answer, Wire

from moorage.metrics.table import TABLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

FILE: Final = ALERTS.with_name("dashboard.json")
DASHBOARD: Final[dict[str, Any]] = json.loads(FILE.read_text())
ROWS: Final = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
PANELS: Final = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
USER: Final = "alice:wonderland"
WIDTH: Final = 24


def expression(text: str) -> str:
    """As Grafana sends it, with every job and instance selected."""
    return text.replace("$__rate_interval", "30s").replace("$job", ".*").replace("$instance", ".*")


QUERIES: Final = {
    f"{panel['id']} {panel['title']}: {target['refId']}": expression(target["expr"])
    for panel in PANELS
    for target in panel["targets"]
}


def test_the_rows_show_every_area() -> None:
    assert ROWS == [
        "Overview", "Requests", "Pushes and pulls", "Latency", "Storage", "Caches", "Authentication", "Processes",
        "Certificate",
    ]  # fmt: skip


def test_every_panel_can_be_drawn() -> None:
    """What Grafana refuses or hides: two panels of one id, panels that overlap, a fixed data source."""
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + column, place["y"] + line) for column in range(place["w"]) for line in range(place["h"])
        }
        assert place["x"] + place["w"] <= WIDTH, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
        for part in (panel, *panel.get("targets", ())) if panel["type"] != "row" else ():
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
    assert DASHBOARD["id"] is None


def test_every_expression_selects_job_and_instance_and_names_metrics_that_there_are() -> None:
    """A panel of an unknown metric is empty for ever; one without selectors mixes two registries."""
    for panel in PANELS:
        for target in panel["targets"]:
            selectors = re.findall(r"\b((?:registry|moorage|process)_\w+|up)\{([^}]*)\}", target["expr"])
            assert selectors, panel["title"]
            for metric, matchers in selectors:
                name = re.sub(r"_(bucket|sum|count)$", "", metric)
                assert name == "up" or name in TABLE, panel["title"]
                assert matchers.startswith('job=~"$job", instance=~"$instance"'), panel["title"]
                labels = set(re.findall(r"(\w+)(?:=~|!=|!~|=)\"", matchers)) - {"job", "instance"}
                assert labels <= set(TABLE[name].labels if name in TABLE else ()), panel["title"]


@pytest.mark.client
def test_prometheus_parses_every_expression(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(QUERIES.values())]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(QUERIES)} rules found" in promtool("check", "rules", path)


class Authenticated(Wire):
    """A client that sends the password with every request."""

    def send(
        self,
        method: str,
        target: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        credentials = {"Authorization": f"Basic {b64encode(USER.encode()).decode()}"}
        return super().send(method, target, body, {**credentials, **(headers or {})})


@contextlib.contextmanager
def prometheus(folder: Path, ports: list[int]) -> Iterator[int]:
    """Debian's Prometheus with our rules, which scrapes these ports of loopback each second; its own port."""
    folder.mkdir()
    port = free_port()
    targets = [f"127.0.0.1:{each}" for each in ports]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [{"job_name": "registry", "static_configs": [{"targets": targets}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [
        require("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        until(lambda: get(port, "/-/ready")[0] == 200, "Prometheus", (folder / "log").read_text)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def ask(port: int, path: str, **query: str) -> Any:
    """The data of an answer of Prometheus' HTTP API."""
    status, body = get(port, f"/api/v1/{path}?{urlencode(query)}")
    assert status == 200, f"{query}: {body}"
    return json.loads(body)["data"]


def work(server: Debugged, wire: Wire, turn: int) -> None:
    """Requests of every kind that a panel shows, failures included."""
    wire.push_image("team/app", "latest", [b"layer %d" % turn])
    assert wire.manifest("team/app", "latest").status == 200
    assert wire.send("GET", "/v2/team/app/tags/list").status == 200
    digest = wire.push_blob("team/app", b"layer")
    assert wire.blob("team/app", digest).status == 200
    assert wire.send("POST", f"/v2/team/other/blobs/uploads/?mount={digest}&from=team/app", b"").status == 201
    assert (
        wire.send(
            "DELETE",
            f"/v2/team/app/manifests/{wire.manifest('team/app', 'latest').headers['docker-content-digest']}",
        ).status
        == 202
    )
    assert Wire(server.live.host).send(
        "GET", "/v2/", None, {"Authorization": "Basic YWxpY2U6d3Jvbmc="}
    ).status in {401, 429}
    # Where the directory of a repository should be there is a file, as a broken disk might have it.
    assert wire.start_upload("broken").status == 503


@pytest.mark.client
@pytest.mark.slow
def test_a_live_registry_has_data_for_every_panel_and_every_rule(tmp_path: Path) -> None:
    """A panel that stays empty looks like a registry without problems."""
    users = tmp_path / "htpasswd"
    users.write_text(f"alice:{bcrypt.hashpw(b'wonderland', bcrypt.gensalt(4)).decode()}\n")
    broken = tmp_path / "data" / "docker/registry/v2/repositories/broken"
    broken.parent.mkdir(parents=True)
    broken.touch()
    issued = trustme.CA().issue_cert("localhost")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    tls = {"certificate": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
    debug = {"addr": "127.0.0.1:0", "prometheus": {"enabled": True}}
    with (
        debugged(tmp_path / "data", auth={"htpasswd": {"realm": "test", "path": str(users)}}) as server,
        serving(tmp_path / "tls", http={"workers": 1, "tls": tls, "debug": debug}) as second,
        prometheus(tmp_path / "prometheus", [server.port, debug_port(second.err)]) as port,
    ):
        empty, turns = dict(QUERIES), iter(range(10_000))
        wire = Authenticated(server.live.host)

        def filled() -> bool:
            work(server, wire, next(turns))
            for name, query in list(empty.items()):
                if ask(port, "query", query=query)["result"]:
                    del empty[name]
            return not empty

        until(filled, "data for every panel", lambda: (empty, server.live.logs()))
        for variable in DASHBOARD["templating"]["list"][1:]:
            found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"])
            assert found is not None
            values = ask(port, f"label/{found[2]}/values", **{"match[]": expression(found[1])})
            assert len(values) == {"job": 1, "instance": 2}[found[2]], values

        def evaluated() -> bool:
            rules = [rule for group in ask(port, "rules")["groups"] for rule in group["rules"]]
            assert {rule["health"] for rule in rules} <= {"ok", "unknown"}, rules
            return all(rule["health"] == "ok" for rule in rules)

        until(evaluated, "every rule to be evaluated")
        firing = {
            alert["labels"]["alertname"] for alert in ask(port, "alerts")["alerts"] if alert["state"] == "firing"
        }
        assert firing <= {"RegistryStorageErrors"}
