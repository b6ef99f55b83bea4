"""Complete a CycloneDX document of Python packages: Python itself and the base's Debian packages.

    sbom.py PYTHON.cdx.json MOORAGE.whl IMAGE.cdx.json

Runs in the Dockerfile, after `cyclonedx-py environment` has described /opt/moorage.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

_STATUS = Path("/var/lib/dpkg/status")


def debian_packages(status: str, release: str) -> list[dict[str, Any]]:
    """Return a component for each installed package of dpkg's `status` file."""
    components = []
    for stanza in status.strip().split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Architecture|Status): (.*)$", stanza, re.MULTILINE))
        if not fields.get("Status", "").endswith(" installed"):
            continue
        name, version, architecture = (fields[key] for key in ("Package", "Version", "Architecture"))
        purl = f"pkg:deb/debian/{quote(name)}@{quote(version, safe='~')}?arch={architecture}&distro={release}"
        components.append({"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl})
    return sorted(components, key=lambda component: str(component["bom-ref"]))


def main(source: Path, wheel: Path, target: Path) -> None:
    document = json.loads(source.read_text())
    # pyproject.toml has no version of its own; the wheel's name has.
    document["metadata"]["component"]["version"] = wheel.name.split("-")[1]
    system = platform.freedesktop_os_release()
    release = f"{system['ID']}-{system['VERSION_ID']}"
    version = platform.python_version()
    python = {
        "type": "application",
        "bom-ref": f"python@{version}",
        "name": "python",
        "version": version,
        "cpe": f"cpe:2.3:a:python:python:{version}:*:*:*:*:*:*:*",
    }
    base = {
        "type": "operating-system",
        "bom-ref": release,
        "name": system["ID"],
        "version": system["VERSION_ID"],
    }
    document["components"] += [base, python, *debian_packages(_STATUS.read_text(), release)]
    target.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
