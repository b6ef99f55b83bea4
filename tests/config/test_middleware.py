"""`middleware`: every name and option that is taken, every one that is refused, and by which words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.config.helpers import BASE, errors_of, load_text

from moorage.config.checks.middleware import CloudFrontOptions, enabled, read_options

if TYPE_CHECKING:
    from pathlib import Path

S3 = "version: 0.1\nhttp: {addr: ':5000'}\nstorage: {s3: {bucket: b, region: r}}\n"
CLOUD = "baseurl: d1.cloudfront.net, privatekey: /etc/hostname, keypairid: K"


def entry(name: str, options: str) -> str:
    return f"middleware: {{storage: [{{name: {name}, options: {{{options}}}}}]}}"


WRONG = [
    (BASE, "middleware: {registry: [{name: y}]}", "registry[0].name", "there is none for a registry"),
    (BASE, "middleware: {repository: [{name: y}]}", "repository[0].name", "there is none for a repository"),
    (BASE, "middleware: {storage: [{}]}", "storage[0].name", "required and missing"),
    (BASE, "middleware: {storage: [{name: x, disabled: true}, {name: y}]}", "storage[1].name",
     "expected one of cloudfront, redirect, rewrite"),
    (BASE, entry("redirct", ""), "storage[0].name", "unknown middleware"),
    (BASE, entry("redirect", ""), "storage[0].options.baseurl", "required and missing"),
    (BASE, entry("redirect", "baseurl: cdn.example.com"), "storage[0].options.baseurl", "scheme and host"),
    (BASE, entry("redirect", "baseurl: 'https://'"), "storage[0].options.baseurl", "scheme and host"),
    (BASE, entry("redirect", "baseurl: 'ftp://h'"), "storage[0].options.baseurl", "scheme and host"),
    (BASE, entry("redirect", "baseurl: 'https://h?x'"), "storage[0].options.baseurl", "scheme and host"),
    (BASE, entry("redirect", "baseurl: 'https://h:x'"), "storage[0].options.baseurl", "scheme and host"),
    (BASE, entry("redirect", "baseurl: 'https://h/\"'"), "storage[0].options.baseurl", "scheme and host"),
    (BASE, entry("redirect", "baseurl: 5"), "storage[0].options.baseurl", "expected text"),
    (BASE, entry("rewrite", "scheme: ftp"), "storage[0].options.scheme", "expected http or https"),
    (BASE, entry("rewrite", "host: 'a/b'"), "storage[0].options.host", "expected a host"),
    (BASE, entry("rewrite", "trimpathprefix: bucket"), "storage[0].options.trimpathprefix", "expected a path"),
    (BASE, entry("cloudfront", CLOUD), "storage[0].name", "needs storage.s3, found filesystem"),
    (S3, entry("cloudfront", "privatekey: /etc/hostname, keypairid: K"), "storage[0].options.baseurl", "required"),
    (S3, entry("cloudfront", "baseurl: h, keypairid: K"), "storage[0].options.privatekey", "required"),
    (S3, entry("cloudfront", "baseurl: h, privatekey: /etc/hostname"), "storage[0].options.keypairid", "required"),
    (S3, entry("cloudfront", f"{CLOUD}, privatekey: /nowhere/k"), "storage[0].options.privatekey", "No such file"),
    (S3, entry("cloudfront", "baseurl: h, privatekey: /etc/hostname, keypairid: 'a b'"),
     "storage[0].options.keypairid", "letters and digits"),
    (S3, entry("cloudfront", f"{CLOUD}, duration: soon"), "storage[0].options.duration", "such as 20m"),
    (S3, entry("cloudfront", f"{CLOUD}, duration: -1m"), "storage[0].options.duration", "above 0"),
    (S3, entry("cloudfront", f"{CLOUD}, duration: 60"), "storage[0].options.duration", "expected text"),
    (S3, entry("cloudfront", f"{CLOUD}, ipfilteredby: gcp"), "storage[0].options.ipfilteredby", "expected none"),
    (S3, entry("cloudfront", f"{CLOUD}, ipfilteredby: awsregion"), "storage[0].options.awsregion", "required"),
    (S3, entry("cloudfront", f"{CLOUD}, ipfilteredby: awsregion, awsregion: ','"),
     "storage[0].options.awsregion", "us-east-1"),
    (S3, entry("cloudfront", f"{CLOUD}, updatefrequency: x"), "storage[0].options.updatefrequency", "duration"),
    (S3, entry("cloudfront", f"{CLOUD}, updatefrenquency: x"), "storage[0].options.updatefrenquency", "duration"),
    (S3, entry("cloudfront", f"{CLOUD}, iprangesurl: 'file:///etc/x'"), "storage[0].options.iprangesurl", "URL"),
    (S3, "middleware: {storage: [{name: rewrite}, {name: cloudfront, options: {" + CLOUD + "}}]}",
     "storage[1].name", "must be first"),
]  # fmt: skip


@pytest.mark.parametrize(("base", "text", "key", "part"), WRONG)
def test_what_is_wrong_is_reported_by_its_key(tmp_path: Path, base: str, text: str, key: str, part: str) -> None:
    """The reference panics, or drops the option in silence."""
    text = text.replace("privatekey: /etc/hostname, keypairid: K, privatekey", "keypairid: K, privatekey")
    (error,) = errors_of(tmp_path, base + text)
    assert error.key == f"middleware.{key}"
    assert part in error.message
    assert error.origin.line is not None


TAKEN = [
    (BASE, entry("redirect", "baseurl: 'https://cdn.example.com:8443/a/b/'")),
    (BASE, entry("rewrite", "scheme: https, host: '[::1]:5', trimpathprefix: /bucket")),
    (BASE, entry("rewrite", "")),
    (BASE, "middleware: {storage: [{name: rewrite}]}"),
    (S3, "middleware: {storage: [{name: x, disabled: true}, {name: cloudfront, options: {" + CLOUD
         + "}}, {name: rewrite}]}"),
    (S3, entry("cloudfront", f"{CLOUD}, ipfilteredby: aws, iprangesurl: 'http://127.0.0.1/x'")),
    (BASE, "middleware: {registry: [{name: x, disabled: true}], storage: [{name: y, disabled: true}]}"),
]  # fmt: skip


@pytest.mark.parametrize(("base", "text"), TAKEN)
def test_what_is_right_is_taken(tmp_path: Path, base: str, text: str) -> None:
    """`disabled: true` counts here, and what is disabled does not stand between cloudfront and the driver."""
    assert load_text(tmp_path, base + text).warnings == ()


def test_an_unknown_option_is_reported(tmp_path: Path) -> None:
    (warning,) = load_text(tmp_path, BASE + entry("rewrite", "hots: h")).warnings
    assert (warning.key, warning.kind) == ("middleware.storage[0].options.hots", "unknown")
    assert warning.nearest == "middleware.storage[0].options.host"


def test_without_redirects_it_has_no_effect(tmp_path: Path) -> None:
    text = BASE.replace("http:", "  redirect: {disable: true}\nhttp:") + entry("rewrite", "")
    (warning,) = load_text(tmp_path, text).warnings
    assert (warning.key, warning.kind) == ("middleware.storage", "warning")


def test_options_of_cloudfront(tmp_path: Path) -> None:
    """Defaults of the reference, and its own misspelling, which is all that 2.8 knows."""

    def options(more: str) -> CloudFrontOptions:
        loaded = load_text(tmp_path, S3 + entry("cloudfront", CLOUD + more))
        ((key, found),) = enabled(loaded.settings)
        read, problems = read_options(found, key)
        assert problems == []
        assert isinstance(read, CloudFrontOptions)
        return read

    usual = options("")
    assert (usual.baseurl, usual.duration, usual.updatefrequency) == ("https://d1.cloudfront.net", 1200, 43200)
    assert (usual.ipfilteredby, usual.regions) == ("none", None)
    assert usual.iprangesurl == "https://ip-ranges.amazonaws.com/ip-ranges.json"
    assert options(", updatefrenquency: 1h").updatefrequency == 3600
    assert options(", updatefrenquency: 1h, updatefrequency: 2h, duration: 5m").updatefrequency == 7200
    assert options(", ipfilteredby: awsregion, awsregion: 'US-East-1, eu-west-1,'").regions == frozenset({
        "us-east-1", "eu-west-1",
    })  # fmt: skip
    assert options(", ipfilteredby: aws, awsregion: us-east-1").regions is None
