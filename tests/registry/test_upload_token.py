"""The `_state` of an upload's URL: only for its upload, only from us, and in the reference's form."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.errors import BlobUploadInvalid
from moorage.registry.upload_token import UploadToken, offset_of
from moorage.types import RepoName

NAME = RepoName("library/alpine")
UUID = "01a20a26-8953-77b5-b9c0-2d429fdb74f0"
SECRET = b"shared by all nodes"
STARTED = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)
TOKEN = UploadToken(NAME, UUID, 4096, STARTED).sign(SECRET)


def signed(body: bytes, secret: bytes = SECRET) -> str:
    """As the reference signs: padded base64 of the MAC and what it is of."""
    return base64.urlsafe_b64encode(hmac.digest(secret, body, hashlib.sha256) + body).decode()


def test_what_was_signed_is_read_back() -> None:
    assert offset_of(TOKEN, SECRET, NAME, UUID) == 4096


def test_the_token_is_the_references() -> None:
    """Two registries that share a secret and a volume take over each other's uploads."""
    raw = base64.urlsafe_b64decode(TOKEN)
    assert raw[:32] == hmac.digest(SECRET, raw[32:], hashlib.sha256)
    assert json.loads(raw[32:]) == {
        "Name": NAME, "UUID": UUID, "Offset": 4096, "StartedAt": "2026-01-05T09:30:00Z",
    }  # fmt: skip


def test_a_token_of_the_reference_is_taken() -> None:
    """Its JSON has nanoseconds, and its base64 is padded."""
    state = {"Name": NAME, "UUID": UUID, "Offset": 7, "StartedAt": "2026-01-05T09:30:00.123456789Z"}
    for padding in ("", " ", "  "):
        token = signed((json.dumps(state) + padding).encode())
        assert offset_of(token, SECRET, NAME, UUID) == 7
        assert offset_of(token.rstrip("="), SECRET, NAME, UUID) == 7


@given(offset=st.integers(0, 2**63 - 1), name=st.sampled_from(["a", "a/b", "library/alpine", "x" * 255]))
def test_a_token_needs_no_escaping_in_a_url(offset: int, name: str) -> None:
    """Clients take the URL apart and put it together, each in its own way."""
    token = UploadToken(RepoName(name), UUID, offset, STARTED).sign(SECRET)
    assert token.replace("-", "").replace("_", "").isalnum()
    assert offset_of(token, SECRET, RepoName(name), UUID) == offset


def test_the_time_is_told_in_utc() -> None:
    there = STARTED.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert UploadToken(NAME, UUID, 4096, there).sign(SECRET) == TOKEN


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("", "no usable _state"),
        ("A" * 5000, "no usable _state"),
        ("****", "garbled"),
        ("größe", "garbled"),
        ("AAAA", "another secret"),
        (TOKEN[:-4], "another secret"),
        (("B" if TOKEN[0] == "A" else "A") + TOKEN[1:], "another secret"),
        (signed(b"{}", b"not ours"), "another secret"),
        (signed(b"no json"), "garbled"),
        (signed(b"\xff\xfe"), "garbled"),
        (signed(b"[]"), "garbled"),
        (signed(b"{}"), "garbled"),
        (signed(json.dumps({"Name": NAME, "UUID": UUID, "Offset": "7"}).encode()), "another upload"),
        (signed(json.dumps({"Name": NAME, "UUID": UUID, "Offset": 7, "Moorage": 2}).encode()), "another version"),
    ],
)
def test_a_token_of_another_upload_or_secret_is_refused(token: str, message: str) -> None:
    """Else a client could write over another's upload, or skip bytes of its own."""
    with pytest.raises(BlobUploadInvalid, match=message):
        offset_of(token, SECRET, NAME, UUID)


def test_members_that_a_later_version_adds_are_ignored_as_go_does() -> None:
    members = {"Name": NAME, "UUID": UUID, "Offset": 7, "Moorage": 1, "More": [1]}
    assert offset_of(signed(json.dumps(members).encode()), SECRET, NAME, UUID) == 7


def test_a_token_is_good_for_its_own_upload_only() -> None:
    with pytest.raises(BlobUploadInvalid, match="another upload"):
        offset_of(TOKEN, SECRET, RepoName("library/other"), UUID)
    with pytest.raises(BlobUploadInvalid, match="another upload"):
        offset_of(TOKEN, SECRET, NAME, UUID.replace("01", "02"))
    with pytest.raises(BlobUploadInvalid, match="do all nodes share"):
        offset_of(TOKEN, b"another node's", NAME, UUID)


@given(st.text(max_size=300))
def test_no_text_breaks_it(text: str) -> None:
    """With any text in the URL the answer is BLOB_UPLOAD_INVALID and never a 500."""
    with pytest.raises(BlobUploadInvalid):
        offset_of(text, SECRET, NAME, UUID)
