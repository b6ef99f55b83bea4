"""Helm and the schemas of Kubernetes for `helm.py`, run by the Python of `.tools/chart`.

One JSON object per line: a request `{"call": NAME, ...}` on standard input, its answer on standard output.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any, Final

import helm_python
import jsonschema
import kubernetes_validate.utils as kubernetes

SCHEMAS: Final = Path(__file__).parent / "schemas"

kubernetes.schema_contents = functools.cache(kubernetes.schema_contents)


@functools.cache
def chart(path: str) -> Any:
    return helm_python.Chart.load(path)


def render(path: str, values: dict[str, Any], name: str, namespace: str) -> dict[str, str]:
    rendered: dict[str, str] = chart(path).render(values, name=name, namespace=namespace)
    return rendered


def lint(path: str, values: dict[str, Any]) -> list[str]:
    """Return findings that are more than advice."""
    report = helm_python.lint(path, values, strict=True)
    return [*report["errors"], *(one["error"] for one in report["messages"] if one["severity"] > 1)]


@functools.cache
def custom(kind: str, api: str) -> Any:
    group, _, version = api.partition("/")
    path = SCHEMAS / f"{kind.lower()}-{group.split('.')[0]}-{version}.json"
    return jsonschema.Draft202012Validator(json.loads(path.read_text())) if path.exists() else None


def validate(objects: list[dict[str, Any]], version: str) -> list[str]:
    """Check objects strictly; unknown kinds are findings too."""
    found = []
    for one in objects:
        name = f"{one.get('kind')}/{one.get('metadata', {}).get('name')}"
        try:
            if validator := custom(one["kind"], one["apiVersion"]):
                validator.validate(one)
            else:
                kubernetes.validate(one, version, strict=True)
        except jsonschema.ValidationError as error:
            found.append(f"{name}: {'.'.join(map(str, error.path))}: {error.message}")
        except kubernetes.SchemaNotFoundError as error:
            found.append(f"{name}: {error.message}")
    return found


def package(path: str, destination: str) -> str:
    archive: str = helm_python.package(path, destination=destination)
    return archive


def push(archive: str, remote: str) -> None:
    with helm_python.RegistryClient(plain_http=True) as client:
        client.push(archive, remote, plain_http=True)


def login_and_push(archive: str, remote: str, host: str, user: str, password: str, credentials: str) -> None:
    with helm_python.RegistryClient(plain_http=True, credentials_file=credentials) as client:
        client.login(host, user, password, plain_http=True)
        client.push(archive, remote, plain_http=True)


def tags(reference: str) -> list[str]:
    with helm_python.RegistryClient(plain_http=True) as client:
        found: list[str] = client.tags(reference)
        return found


def pull(reference: str, version: str, destination: str) -> None:
    with helm_python.RegistryClient(plain_http=True) as client:
        client.pull(reference, version=version, destination=destination, plain_http=True)


CALLS: Final = {
    call.__name__: call for call in (render, lint, validate, package, push, login_and_push, tags, pull)
}


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": CALLS[request.pop("call")](**request)}
        except helm_python.HelmError as error:
            answer = {"error": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
