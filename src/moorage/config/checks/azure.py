"""Checks of `storage.azure`.

Above: `dependencies.py`.  Source: docs/reference/configuration.md, section 5.6; Azure's rules for
names of accounts and containers.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Final

from moorage.config.addresses import is_address
from moorage.config.checks.files import unreadable
from moorage.config.checks.s3_gcs import is_prefix
from moorage.config.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moorage.config.sections.storage import Azure

__all__ = ["check_azure"]

_ACCOUNT: Final = re.compile(r"[a-z0-9]{3,24}", re.ASCII)
_CONTAINER: Final = re.compile(r"(?=.{3,63}\Z)[a-z0-9]+(?:-[a-z0-9]+)*|\$root|\$web", re.ASCII)
_REALM: Final = re.compile(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+", re.ASCII)


def check_azure(azure: Azure) -> Iterator[Problem]:
    """Yield the problems of `storage.azure`."""
    yield from _names(azure)
    yield from _credentials(azure)
    if azure.rootdirectory and not is_prefix(azure.rootdirectory):
        found = f"expected a prefix such as registries/main, found {azure.rootdirectory!r}"
        yield Problem(found, "storage.azure.rootdirectory")
    if azure.cabundle and (reason := unreadable(azure.cabundle)):
        yield Problem(f"cannot read {azure.cabundle!r}: {reason}", "storage.azure.cabundle")
    if azure.connectionstring:
        message = "has no effect, as in CNCF Distribution; set accountname and accountkey"
        yield Problem(message, "storage.azure.connectionstring", kind="warning")


def _names(azure: Azure) -> Iterator[Problem]:
    if azure.accountname and not azure.serviceurl and _ACCOUNT.fullmatch(azure.accountname) is None:
        message = f"expected 3 to 24 lower-case letters and digits, found {azure.accountname!r}"
        yield Problem(message, "storage.azure.accountname")
    if azure.container and _CONTAINER.fullmatch(azure.container) is None:
        message = "expected 3 to 63 lower-case letters, digits and single hyphens between them"
        yield Problem(f"{message}, found {azure.container!r}", "storage.azure.container")
    if _REALM.fullmatch(azure.realm) is None:
        yield Problem(f"expected a domain such as core.windows.net, found {azure.realm!r}", "storage.azure.realm")
    if azure.serviceurl and not is_address(azure.serviceurl, scheme=False):
        message = f"expected an address such as https://blobs.example.com, found {azure.serviceurl!r}"
        yield Problem(message, "storage.azure.serviceurl")


def _credentials(azure: Azure) -> Iterator[Problem]:
    kind, given = azure.credential_type, azure.credentials
    if not kind:
        message = "required unless storage.azure.accountkey is set; expected client_secret or default_credentials"
        yield Problem(message, "storage.azure.credentials.type")
    if kind == "shared_key" and not _is_base64(azure.accountkey):
        message = (
            "required for shared_key" if not azure.accountkey else "expected the base64 text that Azure shows"
        )
        yield Problem(message, "storage.azure.accountkey")
    if kind != "shared_key" and azure.accountkey:
        yield Problem(f"has no effect with {kind}", "storage.azure.accountkey", kind="warning")
    for name in ("tenantid", "clientid", "secret"):
        if kind == "client_secret" and not getattr(given, name):
            yield Problem("required for client_secret", f"storage.azure.credentials.{name}")
        elif kind and kind != "client_secret" and getattr(given, name):
            yield Problem(f"has no effect with {kind}", f"storage.azure.credentials.{name}", kind="warning")


def _is_base64(text: str) -> bool:
    try:
        return bool(base64.b64decode(text, validate=True))
    except (ValueError, binascii.Error):
        return False
