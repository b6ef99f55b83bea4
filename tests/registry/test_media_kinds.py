"""Small decisions on media types and URLs, each by its values."""

from __future__ import annotations

import pytest

from moorage.registry import media


@pytest.mark.parametrize(
    ("config_type", "expected"),
    [
        ("application/vnd.docker.container.image.v1+json", "image"),
        ("application/vnd.oci.image.config.v1+json", "image"),
        ("application/vnd.docker.plugin.v1+json", "plugin"),
        ("application/vnd.cncf.helm.config.v1+json", "application/vnd.cncf.helm.config.v1+json"),
        ("", ""),
    ],
)
def test_the_class_of_content_that_is_neither_image_nor_plugin_is_its_type(
    config_type: str, expected: str
) -> None:
    """`policy.repository.classes` and the classes in tokens allow and deny by it."""
    assert media.class_of(config_type) == expected


@pytest.mark.parametrize(
    "url", ["http://example.com/x", "https://example.com/x", "https://[2001:db8::1]:8443/x?y"]
)
def test_foreign_layers_may_be_fetched_over_http_and_https(url: str) -> None:
    assert media.is_web_url(url)
