"""The examples on the pages that no test runs are at least what they say they are."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.deploying.conftest import page_settings
from tests.deploying.proxies import PAGES

from moorage.config.load import load

if TYPE_CHECKING:
    from pathlib import Path


def documents(page: str) -> list[Any]:
    """Every YAML block of the page."""
    text = (PAGES / f"{page}.md").read_text()
    blocks = re.findall(r"```(?:{code-block} )?yaml\n(?::caption: [^\n]*\n\n)?(.*?)```", text, re.DOTALL)
    assert blocks
    return [yaml.safe_load(block) for block in blocks]


@pytest.mark.parametrize("page", ["index", "compose", "traefik"])
def test_yaml_on_the_pages_can_be_read(page: str) -> None:
    assert all(isinstance(document, dict) for document in documents(page))


def test_the_registrys_own_file_has_no_mistake(tmp_path: Path) -> None:
    """It is what people copy first."""
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump(page_settings(tmp_path)))
    loaded = load(path, {})
    assert loaded.warnings == ()
    assert loaded.settings.http.trustedproxies == ("127.0.0.1/32",)
    assert "secret" in documents("index")[0]["http"]


def test_containers_get_the_time_that_draining_takes() -> None:
    """The numbers on two pages belong together; `tests/chart` has those of pods."""
    (compose,) = documents("compose")
    drain = int(str(documents("index")[0]["http"]["draintimeout"]).removesuffix("s"))
    assert int(compose["services"]["registry1"]["stop_grace_period"].removesuffix("s")) > drain
