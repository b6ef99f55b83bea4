"""The commands of docs/migrating/registry-2.md that need a Docker engine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.guide.pages import MARKS
from tests.guide.test_docker import answers

if TYPE_CHECKING:
    from tests.guide.machine import Machine

pytestmark = MARKS

_PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "migrating" / "registry-2.md"


def _command(beginning: str) -> str:
    (found,) = re.findall(rf"^   ({re.escape(beginning)}.*)$", _PAGE.read_text(), re.MULTILINE)
    return str(found)


def test_a_registry_of_root_is_checked_and_replaced(machine: Machine) -> None:
    """Only the owner of the volume is in the way of user 1000; root, as before, takes over at once."""
    machine.run("docker run -d -p 5000:5000 --name registry --user 0:0 moorage")
    answers(machine)
    machine.run("docker pull ubuntu:24.04; docker tag ubuntu:24.04 localhost:5000/a; docker push localhost:5000/a")

    check = f"{_command('docker run --rm --volumes-from')} --quiet --json"
    *report, summary = [json.loads(line) for line in machine.run(check, fails=True).splitlines()]
    assert [line["kind"] for line in report if line["required"]] == ["permission-directory"]
    assert not summary["summary"]["ready"]
    machine.run(check.replace("--user 1000", "--user 0"))

    for command in ("docker stop", "docker rename"):
        machine.run(_command(command))
    replaced = _command("docker run -d")
    assert replaced.endswith(" moorage")
    machine.run(replaced.replace(" moorage", " --user 0:0 moorage"))
    answers(machine)
    assert json.loads(machine.run("curl -fsS http://localhost:5000/v2/_catalog")) == {"repositories": ["a"]}
