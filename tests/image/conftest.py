"""One Docker engine with both images, for all tests of this folder."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import pytest
from tests.clients.daemons import dockerd
from tests.image import build

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

_START_LIMIT_S: Final = 60.0
_HEALTH: Final = ("--health-interval=1s", "--health-start-period=60s")


@dataclass
class Engine:
    """A Docker engine; its containers have no network but that of the host, or none."""

    host: str

    def __call__(self, *arguments: str, fails: bool = False, stdin: str | None = None) -> str:
        return build.run(self.host, *arguments, fails=fails, stdin=stdin)

    def inspect(self, name: str) -> dict[str, Any]:
        (found,) = json.loads(self("inspect", name))
        assert isinstance(found, dict)
        return found


@dataclass
class Registry:
    """A running container that has a loopback interface of its own, and nothing else."""

    engine: Engine
    name: str

    def exec(self, *command: str, fails: bool = False) -> str:
        return self.engine("exec", self.name, *command, fails=fails)

    def get(self, url: str) -> str:
        return self.exec("wget", "-q", "-O", "-", url)

    def logs(self) -> str:
        return self.engine("logs", self.name)

    def state(self) -> dict[str, Any]:
        found = self.engine.inspect(self.name)["State"]
        assert isinstance(found, dict)
        return found

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + _START_LIMIT_S
        while text not in self.logs():
            assert self.state()["Running"], self.logs()
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.05)

    def healthy(self) -> None:
        deadline = time.monotonic() + _START_LIMIT_S
        while (health := self.state()["Health"])["Status"] != "healthy":
            assert time.monotonic() < deadline, health
            time.sleep(0.05)


class Start(Protocol):
    def __call__(
        self, *arguments: str, options: tuple[str, ...] = (), image: str | None = None
    ) -> AbstractContextManager[Registry]:
        """Run a container (of `full` unless `image` is another) and wait until it listens; removed afterwards."""


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    with dockerd() as host:
        yield Engine(host)


@pytest.fixture(scope="session")
def full(engine: Engine) -> str:
    return build.image(engine.host)


@pytest.fixture(scope="session")
def slim(engine: Engine) -> str:
    return build.image(engine.host, "slim")


@pytest.fixture(scope="session")
def start(engine: Engine, full: str) -> Start:
    @contextmanager
    def start(*arguments: str, options: tuple[str, ...] = (), image: str | None = None) -> Iterator[Registry]:
        network = () if "--network=host" in options else ("--network=none",)
        command = ("run", "--detach", *network, *_HEALTH, *options, image or full, *arguments)
        name = engine(*command).strip()
        try:
            registry = Registry(engine, name)
            registry.wait_for("listening on")
            yield registry
        finally:
            engine("rm", "--force", "--volumes", name)

    return start
