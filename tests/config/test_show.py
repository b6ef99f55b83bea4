"""`config show`: what is printed is what is in force, without the secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.config.helpers import BASE, load_text
from tests.config.test_stock_files import OFFICIAL_2, OFFICIAL_3, UPSTREAM_3

from moorage.config.load import load
from moorage.config.show import MASK, render

if TYPE_CHECKING:
    from pathlib import Path

EXTRAS = """
log: {fields: {a: yes, b: 12:30, c: "0123", d: [1, {e: 1e3}], f: "yes"}}
health: {http: [{uri: http://x, timeout: 1500ms}], tcp: [{addr: "db:1"}]}
policy: {repository: {classes: ["1e3", "0123", image]}}
validation: {manifests: {urls: {allow: ['^https://']}, indexes: {platforms: list, platformlist: [{os: "1"}]}}}
"""


@pytest.mark.parametrize("text", [BASE, BASE + EXTRAS, OFFICIAL_2, OFFICIAL_3, UPSTREAM_3])
def test_what_is_shown_reads_back_as_the_same_settings(tmp_path: Path, text: str) -> None:
    """People save the output as their file."""
    settings = load_text(tmp_path, text).settings
    assert load_text(tmp_path, render(settings)).settings == settings


def test_the_built_in_defaults_read_back(tmp_path: Path) -> None:
    """The easiest way to a first file."""
    settings = load(None, {"HOME": "/h"}, places=[]).settings
    assert load_text(tmp_path, render(settings)).settings == settings


def test_secrets_are_masked(tmp_path: Path) -> None:
    """The output is meant to be pasted into an issue."""
    text = BASE + "  secret: hush1\nproxy: {username: u, password: hush2}\nredis: {password: hush3}\n"
    text += "notifications: {endpoints: [{disabled: true, headers: {Authorization: [hush4]}}]}\n"
    text += "middleware: {storage: [{name: a, disabled: true, options: {key: hush5}}]}\n"
    text += "health: {http: [{uri: http://x, headers: {Authorization: [hush6]}}]}\n"
    text += "log: {hooks: [{disabled: true, options: {smtp: {password: hush7}}}]}\n"
    shown = render(load_text(tmp_path, text).settings)
    assert "hush" not in shown
    assert shown.count(MASK) == 7
