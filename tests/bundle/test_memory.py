"""Memory of the commands does not depend on the size of layers."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tests.bundle.test_hostile import tar_of

from moorage.types import Digest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

_RUN = """
import sys
from pathlib import Path
from moorage.cli import main
sys.argv[0] = "moorage"
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
# Unlike ru_maxrss, it begins anew with each program.
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""
_LAYER_BYTES = 160 << 20
_LIMIT_KIB = 120 << 10
"""A process that imports everything has 70 MiB."""


def docker_archive(path: Path, size: int) -> Path:
    """An archive of an image with one layer, which compresses well."""
    layer = bytes(range(256)) * (size // 256)
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": [str(Digest.of(layer))]}}
    entry = {"Config": "config.json", "RepoTags": ["big/app:1"], "Layers": ["layer.tar"]}
    documents = {"config.json": json.dumps(config).encode(), "manifest.json": json.dumps([entry]).encode()}
    return tar_of(path, {"layer.tar": layer, **documents})


def peak_kib(*arguments: str | Path) -> int:
    command = [sys.executable, "-c", _RUN, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


def test_layers_are_streamed(tmp_path: Path) -> None:
    """Compressed on the way in, copied on the way out."""
    (tmp_path / "data").mkdir()
    config = tmp_path / "config.yml"
    storage = f"storage: {{filesystem: {{rootdirectory: {tmp_path / 'data'}}}}}"
    config.write_text(f"version: 0.1\n{storage}\nhttp: {{addr: '127.0.0.1:0'}}\n")
    archive = docker_archive(tmp_path / "d.tar", _LAYER_BYTES)
    assert peak_kib("import", "-q", "--config", config, archive) < _LIMIT_KIB
    assert peak_kib("export", "-q", "--config", config, "-o", tmp_path / "b.tar", "big/app:1") < _LIMIT_KIB
