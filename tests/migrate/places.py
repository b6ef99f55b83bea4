"""One store and two versions of Moorage: this one, and the release before it, out of the history.

The release before runs with the libraries of this one's environment, by PYTHONPATH.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.interop.recording import Held
from tests.live import Live, everything_required, start_moorage
from tests.s3 import Bucket, a_bucket

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["PREVIOUS", "RECORDED", "STORES", "Place", "a_place", "previous_source"]

PREVIOUS: Final = "aaf2460975cb32dc110bb02664e97e28b07cc918"
"""The commit of the release before this one; there is no tag yet.  A release moves it (docs/testing.md)."""

ROOT: Final = Path(__file__).resolve().parents[2]
RECORDED: Final = Path(__file__).with_name("recorded")
STORES: Final = ["files", "bucket"]


def previous_source(folder: Path) -> Path:
    """The release before's `src`, unpacked into `folder`."""
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", PREVIOUS, "src"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0:
        reason = f"the history has no {PREVIOUS[:7]} (git fetch --unshallow): {done.stderr.decode().strip()}"
        if everything_required():
            pytest.fail(reason)
        pytest.skip(reason)
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    source = folder / "src"
    location = subprocess.run(
        [sys.executable, "-c", "import moorage; print(moorage.__file__)"],
        env={"PYTHONPATH": str(source)}, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    assert Path(location).is_relative_to(source), location
    return source


@dataclass
class Place:
    """A data directory or a bucket; `previous` is the source of the release before, where it is needed."""

    name: str
    path: Path
    bucket: Bucket | None = None
    previous: Path | None = None
    _started: int = field(default=0)

    @property
    def root(self) -> Path:
        return self.path / "volume"

    def start(self, version: str, **sections: Any) -> Live:
        """A server of "previous" or "this"."""
        self._started += 1
        environment = self.environment(version)
        storage = {**self.storage(), **sections.pop("storage", {})}
        config = self.path / f"{version}-{self._started}.yml"
        return start_moorage(self.root, config=config, environment=environment, storage=storage, **sections)

    def environment(self, version: str) -> Mapping[str, str]:
        if version == "this":
            return {}
        assert self.previous is not None
        return {"PYTHONPATH": str(self.previous)}

    def storage(self) -> dict[str, Any]:
        found: dict[str, Any] = {"redirect": {"disable": True}, "cache": {"blobdescriptor": "inmemory"}}
        if self.bucket is not None:
            found |= {"filesystem": None, "s3": self.bucket.settings()}
        return found

    def check(self, version: str, *options: str) -> tuple[int, str]:
        """`moorage storage check` of a version, on the configuration that was used last; status and output."""
        config = max(self.path.glob("*.yml"), key=lambda path: path.stat().st_mtime_ns)
        script = "from moorage.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", script, "storage", "check", "--quiet", *options, str(config)],
            env={"PATH": "/usr/bin:/bin", **self.environment(version)},
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout + done.stderr

    def objects(self) -> dict[str, Held]:
        """Everything that is stored."""
        if self.bucket is None:
            files = (path for path in self.root.rglob("*") if path.is_file())
            return {str(path.relative_to(self.root)): Held("file", path.read_bytes()) for path in files}
        client, name = self.bucket.client, self.bucket.name
        return {
            key: Held("object", client.get_object(Bucket=name, Key=key)["Body"].read())
            for key in sorted(self.bucket.keys())
        }

    def restore(self, objects: Mapping[str, Held]) -> None:
        """Put them into an empty store."""
        for key, held in objects.items():
            if self.bucket is not None:
                self.bucket.client.put_object(Bucket=self.bucket.name, Key=key, Body=held.data)
                continue
            path = self.root / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(held.data)


def a_place(name: str, path: Path, previous: Path | None = None) -> Iterator[Place]:
    """For a fixture: an empty store; `name` is one of STORES."""
    if name == "files":
        yield Place(name, path, previous=previous)
        return
    with a_bucket() as bucket:
        yield Place(name, path, bucket, previous)
