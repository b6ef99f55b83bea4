"""Lists of images in the files that clusters already have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from moorage.bundle.imagelist import ImageListInvalid, read_image_list

if TYPE_CHECKING:
    from pathlib import Path

LINES = """
# the cluster
registry.k8s.io/pause:3.9
nginx:1.25   # the proxy

quay.io/a/b@sha256:{hex}
nginx:1.25
""".replace("{hex}", "a" * 64)

KUBERNETES = """
apiVersion: apps/v1
kind: Deployment
spec:
  template:
    spec:
      initContainers:
      - {name: init, image: busybox:1.36}
      containers:
      - {name: web, image: nginx:1.25}
      - {name: side, image: "registry.local:5000/team/side:2"}
      ephemeralContainers:
      - {name: debug, image: debug:1}
      volumes:
      - name: model
        image: {reference: quay.io/models/m:1, pullPolicy: IfNotPresent}
---
apiVersion: monitoring.coreos.com/v1
kind: Prometheus
spec: {image: quay.io/prometheus/prometheus:v2.50.0}
---
apiVersion: v1
kind: List
items:
- kind: CronJob
  spec: {jobTemplate: {spec: {template: {spec: {containers: [{image: nginx:1.25}]}}}}}
- kind: CustomResourceDefinition
  spec: {validation: {properties: {image: {type: string, description: an image}}}}
---
"""

VALUES = """
image: {registry: ghcr.io, repository: org/app, tag: 1.2, digest: ""}
sidecar:
  image: {repository: org/side, tag: "3", pullPolicy: Always}
pinned:
  image: {repository: quay.io/org/pinned, digest: "sha256:{hex}"}
plain:
  image: org/plain:4
split:
  image: org/split
  tag: v5
nested: [{worker: {image: {repository: org/worker, tag: 7}}}]
""".replace("{hex}", "b" * 64)


def listed(tmp_path: Path, name: str, text: str | bytes) -> list[str]:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_image_list(path)


def test_lines_with_comments(tmp_path: Path) -> None:
    """A UTF-8 mark and CRLF, as editors on Windows write them, too."""
    expected = ["registry.k8s.io/pause:3.9", "nginx:1.25", f"quay.io/a/b@sha256:{'a' * 64}"]
    assert listed(tmp_path, "images.txt", LINES) == expected
    assert listed(tmp_path, "images.txt", "\ufeff" + LINES.replace("\n", "\r\n")) == expected


def test_images_of_kubernetes_manifests(tmp_path: Path) -> None:
    """Of all containers, of volumes and of other objects, each once."""
    assert listed(tmp_path, "all.yaml", KUBERNETES) == [
        "busybox:1.36",
        "nginx:1.25",
        "registry.local:5000/team/side:2",
        "debug:1",
        "quay.io/models/m:1",
        "quay.io/prometheus/prometheus:v2.50.0",
    ]


def test_images_of_values_of_a_chart(tmp_path: Path) -> None:
    assert listed(tmp_path, "values.yml", VALUES) == [
        "ghcr.io/org/app:1.2",
        "org/side:3",
        f"quay.io/org/pinned@sha256:{'b' * 64}",
        "org/plain:4",
        "org/split:v5",
        "org/worker:7",
    ]
    prefixed = listed(tmp_path, "values.yml", "global: {imageRegistry: mirror.local}\n" + VALUES)
    assert "mirror.local/org/app:1.2" in prefixed


def test_json_is_read_as_yaml_is(tmp_path: Path) -> None:
    """`kubectl get pods -A -o json`."""
    assert listed(tmp_path, "pods.json", '{"items":[{"spec":{"containers":[{"image":"a:1"}]}}]}') == ["a:1"]


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("images.txt", "nginx 1.25\n", r"line 1: expected one name of an image, found 'nginx 1\.25'"),
        ("images.txt", "apiVersion: v1\n", "a Kubernetes manifest or a file of Helm values must end in .yaml"),
        ("images.txt", "# nothing\n", "names no image"),
        ("images.txt", b"\xff\xfe", "is not UTF-8"),
        (
            "values.yaml",
            "image: {repository: org/app, tag: ''}",
            r"image \(org/app\) has no tag; use the",
        ),
        ("deploy.yaml", "image: '{{ .Values.image }}'", "image is '{{ .Values.image }}'; use the output of helm"),
        ("deploy.yaml", "{{- if .Values.x }}\na: [\n", "not YAML: .*is it a template"),
        ("deploy.yaml", "a: &x [*x, {image: 'a b'}]", r"a\[1\].image is 'a b'"),
        ("pods.json", "{", "cannot be parsed"),
    ],
)
def test_lists_that_do_not_determine_the_images(tmp_path: Path, name: str, text: str | bytes, match: str) -> None:
    """An image that is left out silently is missed where nothing can be done about it."""
    with pytest.raises(ImageListInvalid, match=match) as refused:
        listed(tmp_path, name, text)
    assert str(tmp_path / name) in str(refused.value)


def test_lists_are_bounded(tmp_path: Path) -> None:
    with pytest.raises(ImageListInvalid, match="has more than 16 MiB"):
        listed(tmp_path, "big.txt", b"a" * ((16 << 20) + 1))
    with pytest.raises(ImageListInvalid, match="cannot be parsed"):
        listed(tmp_path, "deep.json", "[" * 100_000)


def test_aliases_are_visited_once(tmp_path: Path) -> None:
    """Nine lines of aliases would otherwise be a billion objects."""
    lines = ["a0: &a0 [{image: x:1}]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 30)]
    assert listed(tmp_path, "bomb.yaml", "\n".join(lines)) == ["x:1"]


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ImageListInvalid, match=r"images\.txt: No such file or directory"):
        read_image_list(tmp_path / "images.txt")
