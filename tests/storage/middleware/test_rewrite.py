"""`redirect` and `rewrite`: the URLs that clients get, and those that must not be made up."""

from __future__ import annotations

import pytest

from moorage.storage.driver import Key, SignedUrl
from moorage.storage.middleware.redirect import RedirectRule
from moorage.storage.middleware.rewrite import Rewrite

KEY = Key("docker/registry/v2/blobs/sha256/ab/abc/data")
SIGNED = SignedUrl("https://b.s3.example.com:9000/bucket/root%20x/docker/data?X-Amz-Signature=a%2Fb&X=1")


@pytest.mark.parametrize("found", [SIGNED, None])
@pytest.mark.parametrize("base", ["https://cdn.example.com", "https://cdn.example.com/", "http://h:81/a/b"])
async def test_redirect_sends_everybody_to_its_base(base: str, found: SignedUrl | None) -> None:
    """As 3.x joins it; files leave by it as well."""
    rule = RedirectRule(base)
    assert rule.makes
    assert await rule.apply(found, KEY, "") == SignedUrl(f"{base.rstrip('/')}/{KEY}")
    await rule.close()


@pytest.mark.parametrize(
    ("rule", "url"),
    [
        (Rewrite(), SIGNED.url),
        (Rewrite(scheme="http"), SIGNED.url.replace("https:", "http:")),
        (Rewrite(host="proxy:81"), SIGNED.url.replace("b.s3.example.com:9000", "proxy:81")),
        (Rewrite(trim_path_prefix="/bucket"), SIGNED.url.replace("/bucket", "")),
        (Rewrite(trim_path_prefix="/bucket/"), SIGNED.url.replace("/bucket", "")),
        (Rewrite(trim_path_prefix="/other"), SIGNED.url),
        (Rewrite(scheme="http", host="p", trim_path_prefix="/bucket/root%20x"),
         "http://p/docker/data?X-Amz-Signature=a%2Fb&X=1"),
    ],
)  # fmt: skip
async def test_rewrite_exchanges_parts_and_keeps_the_signature(rule: Rewrite, url: str) -> None:
    assert await rule.apply(SIGNED, KEY, "") == SignedUrl(url)
    await rule.close()


async def test_rewrite_makes_up_no_url() -> None:
    """The reference answers `//host` for files, and pulls break."""
    rule = Rewrite(scheme="https", host="cdn.example.com")
    assert not rule.makes
    assert await rule.apply(None, KEY, "") is None
