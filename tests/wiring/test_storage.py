"""Settings become drivers: `wiring/storage.py`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from tests.config.helpers import load_text
from typer.testing import CliRunner

from moorage import __version__
from moorage.cli.commands import app
from moorage.startup import StartupError
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.storage.memory import MemoryDriver
from moorage.storage.object_store.driver import ObjectDriver
from moorage.wiring.storage import make_driver, s3_options

if TYPE_CHECKING:
    from pathlib import Path

    from moorage.config.model import Settings
    from moorage.storage.s3.options import S3Options

PLAIN = "version: 0.1\nhttp: {addr: ':5000'}\nstorage: "


def settings(path: Path, storage: str) -> Settings:
    return load_text(path, PLAIN + storage).settings


def options(path: Path, s3: str) -> S3Options:
    section = settings(path, f"{{s3: {{bucket: b, {s3}}}}}").storage.s3
    assert section is not None
    return s3_options(section)


@pytest.mark.parametrize(
    ("storage", "kind", "name"),
    [
        ("{filesystem: {rootdirectory: /x}}", FilesystemDriver, "filesystem"),
        ("inmemory", MemoryDriver, "inmemory"),
        ("{s3: {bucket: b, region: r}}", ObjectDriver, "s3aws"),
        ("{s3aws: {bucket: b, region: r}}", ObjectDriver, "s3aws"),
    ],
)
async def test_each_section_makes_its_driver(tmp_path: Path, storage: str, kind: type, name: str) -> None:
    """`s3aws` is the name that the reference's metrics and health checks show."""
    driver = make_driver(settings(tmp_path, storage))
    assert (type(driver), driver.name) == (kind, name)
    await driver.close()


def test_every_parameter_of_s3_reaches_the_driver(tmp_path: Path) -> None:
    """One that is read and then dropped would be accepted and ignored."""
    made = options(
        tmp_path,
        "region: r, regionendpoint: 'h:9000', forcepathstyle: false, redirectendpoint: 'https://cdn/', "
        "accesskey: a, secretkey: s, sessiontoken: t, encrypt: true, keyid: k, secure: false, skipverify: true, "
        "chunksize: 6291456, multipartcopychunksize: 7340032, multipartcopymaxconcurrency: 3, "
        "multipartcopythresholdsize: 0, rootdirectory: /root/, storageclass: Onezone_IA, objectacl: public-read, "
        "useragent: agent, loglevel: debug",
    )
    assert (made.region, made.endpoint_url, made.style) == ("r", "http://h:9000", "virtual")
    assert (made.redirectendpoint, made.accesskey, made.secretkey, made.sessiontoken) == (
        "https://cdn", "a", "s", "t",
    )  # fmt: skip
    assert (made.encrypt, made.keyid, not made.skipverify, made.chunksize) == (True, "k", False, 6_291_456)
    assert (made.multipartcopychunksize, made.multipartcopymaxconcurrency, made.multipartcopythresholdsize) == (
        7_340_032,
        3,
        0,
    )
    assert (made.prefix, made.storageclass, made.objectacl) == ("root/", "ONEZONE_IA", "public-read")
    assert (made.useragent, made.log_requests) == ("agent", True)
    assert "secret_key" not in repr(made), "nor does it show where it is printed"
    amazon = options(tmp_path, "region: r, usedualstack: true, accelerate: true, usefipsendpoint: true")
    assert (amazon.usedualstack, amazon.accelerate, amazon.usefipsendpoint) == (True, True, True)


def test_what_is_not_given_is_left_to_the_store(tmp_path: Path) -> None:
    """The default class and list are the store's own; to name them is an error at some."""
    for text in ("region: r", "region: r, storageclass: STANDARD", "region: r, storageclass: none, objectacl: ''"):
        made = options(tmp_path, text)
        assert (made.storageclass, made.objectacl, made.prefix) == ("", "", "")
        assert made.useragent == f"moorage/{__version__}"
        assert not made.log_requests


def test_without_the_extra_the_message_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At start, in the log and from commands alike."""
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(StartupError, match=r"moorage\[s3\]"):
        make_driver(settings(tmp_path, "{s3: {bucket: b, region: r}}"))
    done = CliRunner().invoke(app, ["storage", "rebuild-referrers", str(tmp_path / "config.yml")])
    assert done.exit_code == 1
    assert "moorage[s3]" in done.output
    assert "-m pip install 'aiobotocore>=2.19' 'obstore<0.13,>=0.12'" in done.output
