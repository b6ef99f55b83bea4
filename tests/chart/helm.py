"""Helm for tests: the chart rendered, checked, packaged and pushed.

Helm runs as a library in a process of its own, since it and the schemas of Kubernetes have an environment of their
own (`.tools/chart`, see tools/install_test_programs.py).
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CHART", "Helm", "Refused", "Rendered"]

ROOT: Final = Path(__file__).resolve().parents[2]
CHART: Final = ROOT / "charts" / "moorage"
WORKER: Final = Path(__file__).with_name("helm_worker.py")


class Refused(Exception):
    """Helm ended with an error; the message is Helm's."""


@dataclass(frozen=True)
class Rendered:
    """The objects of a rendered chart, and its NOTES."""

    objects: list[dict[str, Any]]
    notes: str = ""
    text: str = field(default="", repr=False)

    @classmethod
    def parsed(cls, text: str, notes: str = "") -> Self:
        return cls([one for one in yaml.safe_load_all(text) if one], notes, text)

    def kinds(self) -> set[str]:
        return {one["kind"] for one in self.objects}

    def one(self, kind: str, ending: str = "") -> dict[str, Any]:
        """Return the only object of a kind whose name ends so."""
        found = [one for one in self.objects if one["kind"] == kind and one["metadata"]["name"].endswith(ending)]
        assert len(found) == 1, f"{len(found)} objects of kind {kind} ending in {ending!r}"
        return found[0]

    @property
    def pod(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.one("Deployment")["spec"]["template"]["spec"]
        return spec

    @property
    def container(self) -> dict[str, Any]:
        """The registry's container."""
        first: dict[str, Any] = self.pod["containers"][0]
        return first

    @property
    def env(self) -> dict[str, str]:
        """Values of the container's variables, without those from elsewhere (`valueFrom`)."""
        return {one["name"]: one["value"] for one in self.container.get("env", []) if "value" in one}

    @property
    def secret_settings(self) -> dict[str, tuple[str, str]]:
        """Variables whose values are keys of Secrets: name of the Secret and key."""
        sources = [volume["projected"]["sources"] for volume in self.pod["volumes"] if "projected" in volume]
        paths = {
            f"/etc/moorage/secrets/{item['path']}": (source["secret"]["name"], item["key"])
            for source in (sources[0] if sources else [])
            for item in source["secret"]["items"]
        }
        return {name.removesuffix("_FILE"): paths.pop(value) for name, value in self.env.items() if value in paths}

    @property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = yaml.safe_load(self.one("ConfigMap", "-config")["data"]["config.yml"])
        return config


class Helm:
    """The process with Helm's library."""

    def __init__(self, python: Path) -> None:
        self._process = subprocess.Popen(
            [python, WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def _call(self, call: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"call": call, **arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the process with Helm's library ended with status {self._process.wait(60)}"
        answer = json.loads(line)
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["result"]

    def render(
        self,
        values: Mapping[str, Any] | None = None,
        *,
        name: str = "demo",
        namespace: str = "registries",
        chart: Path = CHART,
    ) -> Rendered:
        """Render the chart as `helm template` does.  Raises Refused."""
        files: dict[str, str] = self._call(
            "render", path=str(chart), values=values or {}, name=name, namespace=namespace
        )
        notes = next((text for path, text in files.items() if path.endswith("NOTES.txt")), "")
        manifests = [text for path, text in sorted(files.items()) if path.endswith(".yaml")]
        return Rendered.parsed("\n---\n".join(manifests), notes)

    def refusal(self, values: Mapping[str, Any]) -> str:
        """Return the error that rendering these values ends with."""
        try:
            self.render(values)
        except Refused as error:
            return str(error)
        raise AssertionError(f"rendered: {values}")

    def lint(self, values: Mapping[str, Any], chart: Path = CHART) -> list[str]:
        findings: list[str] = self._call("lint", path=str(chart), values=values)
        return findings

    def validate(self, objects: list[dict[str, Any]], version: str) -> list[str]:
        """Return what the schemas of a version of Kubernetes object to."""
        findings: list[str] = self._call("validate", objects=objects, version=version)
        return findings

    def package(self, destination: Path) -> Path:
        return Path(self._call("package", path=str(CHART), destination=str(destination)))

    def push(self, archive: Path, remote: str) -> None:
        self._call("push", archive=str(archive), remote=remote)

    def login_and_push(
        self, archive: Path, remote: str, *, host: str, user: str, password: str, credentials: Path
    ) -> None:
        self._call(
            "login_and_push",
            archive=str(archive),
            remote=remote,
            host=host,
            user=user,
            password=password,
            credentials=str(credentials),
        )

    def tags(self, reference: str) -> list[str]:
        found: list[str] = self._call("tags", reference=reference)
        return found

    def pull(self, reference: str, version: str, destination: Path) -> None:
        self._call("pull", reference=reference, version=version, destination=str(destination))
