"""Settings become the Azure driver: `wiring/storage.py`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from tests.config.helpers import load_text

from moorage import __version__
from moorage.startup import StartupError
from moorage.storage.driver import RequestCost
from moorage.storage.object_store.driver import ObjectDriver
from moorage.wiring.storage import azure_options, make_driver

if TYPE_CHECKING:
    from pathlib import Path

    from moorage.config.model import Settings
    from moorage.storage.azure.options import AzureOptions

KEYED = "accountkey: a2V5"


def settings(path: Path, azure: str) -> Settings:
    storage = f"{{azure: {{accountname: abc, container: images, {azure}}}}}"
    return load_text(path, f"version: 0.1\nhttp: {{addr: ':5000'}}\nstorage: {storage}").settings


def options(path: Path, azure: str) -> AzureOptions:
    section = settings(path, azure).storage.azure
    assert section is not None
    return azure_options(section)


async def test_the_section_makes_its_driver(tmp_path: Path) -> None:
    """`azure` is the name that the reference's metrics and health checks show."""
    driver = make_driver(settings(tmp_path, KEYED))
    assert (type(driver), driver.name, driver.request_cost) == (ObjectDriver, "azure", RequestCost.NETWORK)
    await driver.close()


def test_every_parameter_of_azure_reaches_the_driver(tmp_path: Path) -> None:
    """One that is read and then dropped would be accepted and ignored."""
    bundle = tmp_path / "ca.pem"
    bundle.write_text("")
    made = options(
        tmp_path,
        "credentials: {type: client_secret, tenantid: t, clientid: c, secret: s3cret}, max_retries: 7, "
        "realm: core.chinacloudapi.cn, rootdirectory: /root/, retry_delay: 2s, skipverify: true, "
        f"cabundle: {bundle}, useragent: agent",
    )
    assert (made.accountname, made.container, made.url) == (
        "abc",
        "images",
        "https://abc.blob.core.chinacloudapi.cn",
    )
    assert (made.credential_type, made.tenantid, made.clientid, made.secret) == (
        "client_secret",
        "t",
        "c",
        "s3cret",
    )
    assert (made.prefix, made.attempts, made.retry_delay) == ("root/", 7, 2.0)
    assert (not made.skipverify, made.cabundle, made.useragent) == (False, str(bundle), "agent")
    assert "s3cret" not in repr(made), "nor does it show where it is printed"
    keyed = options(tmp_path, f"{KEYED}, serviceurl: 'http://127.0.0.1:10000/abc/'")
    assert (keyed.credential_type, keyed.accountkey, keyed.url) == (
        "shared_key", "a2V5", "http://127.0.0.1:10000/abc",
    )  # fmt: skip
    assert options(tmp_path, f"{KEYED}, serviceurl: 'blobs.example'").url == "https://blobs.example"
    assert keyed.useragent == f"moorage/{__version__}"


@pytest.mark.parametrize(("given", "attempts"), [("", 5), (", max_retries: 0", 5), (", max_retries: -1", 1)])
def test_odd_numbers_of_attempts_mean_what_they_mean_there(tmp_path: Path, given: str, attempts: int) -> None:
    """With -1 the reference reported a copy that it had aborted as done."""
    assert options(tmp_path, KEYED + given).attempts == attempts


@pytest.mark.parametrize("module", ["azure.storage.blob.aio", "azure.identity.aio", "aiohttp"])
def test_without_the_extra_the_message_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    """At start, not at the first push."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(StartupError, match=r"moorage\[azure\].*not installed"):
        make_driver(settings(tmp_path, KEYED))
