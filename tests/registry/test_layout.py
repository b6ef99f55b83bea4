"""The keys are CNCF Distribution's, to the letter: an old volume depends on each of them."""

from __future__ import annotations

import pytest

from moorage.registry import layout
from moorage.storage.driver import Key
from moorage.types import Digest, RepoName, Tag

HEX = "ab" + "0" * 62
DIGEST = Digest("sha256", HEX)
NAME = RepoName("library/alpine")
NESTED, TAG = RepoName("team/app/nested.x"), Tag("_uploads")
ONE, STRONG = Digest.of(b"one"), Digest.of(b"two", "sha512")
REPOSITORY = "docker/registry/v2/repositories/library/alpine"


def test_keys_are_those_of_the_reference() -> None:
    """A slip here and a migrated registry looks empty."""
    assert layout.blob_data(DIGEST) == f"docker/registry/v2/blobs/sha256/ab/{HEX}/data"
    assert layout.layer_link(NAME, DIGEST) == f"{REPOSITORY}/_layers/sha256/{HEX}/link"
    assert layout.revision_link(NAME, DIGEST) == f"{REPOSITORY}/_manifests/revisions/sha256/{HEX}/link"
    assert layout.tag_link(NAME, Tag("v1")) == f"{REPOSITORY}/_manifests/tags/v1/current/link"
    assert (
        layout.tag_history_link(NAME, Tag("v1"), DIGEST)
        == f"{REPOSITORY}/_manifests/tags/v1/index/sha256/{HEX}/link"
    )
    assert layout.upload_home(NAME, "u") == f"{REPOSITORY}/_uploads/u"


def test_additions_are_where_the_reference_does_not_look() -> None:
    """It enumerates `revisions` and `tags`, so Moorage's keys are beside them."""
    assert layout.referrer_link(NAME, DIGEST, DIGEST) == f"{REPOSITORY}/_referrers/sha256/{HEX}/sha256/{HEX}/link"
    assert layout.lease("purging") == "docker/registry/v2/_moorage/leases/purging"
    assert layout.deleted_mark(NAME, DIGEST) == f"{REPOSITORY}/_manifests/_deleted/sha256/{HEX}"


@pytest.mark.parametrize(
    ("key", "parsed"),
    [
        (layout.blob_data(ONE), layout.ParsedKey("blob", digest=ONE)),
        (layout.blob_data(STRONG), layout.ParsedKey("blob", digest=STRONG)),
        (layout.torn_mark(STRONG), layout.ParsedKey("torn", digest=STRONG)),
        (layout.layer_link(NESTED, ONE), layout.ParsedKey("layer", NESTED, ONE)),
        (layout.revision_link(NESTED, STRONG), layout.ParsedKey("revision", NESTED, STRONG)),
        (layout.tag_link(NESTED, TAG), layout.ParsedKey("tag", NESTED, tag=TAG)),
        (layout.tag_history_link(NESTED, TAG, ONE), layout.ParsedKey("history", NESTED, ONE, TAG)),
        (layout.deleted_mark(NESTED, ONE), layout.ParsedKey("deleted", NESTED, ONE)),
        (layout.referrer_link(NESTED, STRONG, ONE), layout.ParsedKey("referrer", NESTED, ONE, subject=STRONG)),
        (layout.lease("upload-purging"), layout.ParsedKey("lease")),
        (
            layout.below(layout.upload_home(NESTED, "some-id"), "hashstates/sha256/0"),
            layout.ParsedKey("upload", NESTED, upload="some-id"),
        ),
    ],
)
def test_every_key_is_parsed_into_what_it_was_built_from(key: Key, parsed: layout.ParsedKey) -> None:
    """Else a check reports the object as unknown, and a walk leaves it out."""
    assert layout.parse_key(key) == parsed


@pytest.mark.parametrize(
    "key",
    [
        "scheduler-state.json",
        f"{layout.ROOT}",
        f"{layout.BLOBS}/sha256/00/{'ab' * 32}/data",
        f"{layout.BLOBS}/sha256/ab/abcd/data",
        f"{layout.BLOBS}/sha384/ab/{'ab' * 48}/data",
        f"{layout.REPOSITORIES}/UPPER/_layers/sha256/{'ab' * 32}/link",
        f"{layout.REPOSITORIES}/_layers/sha256/{'ab' * 32}/link",
        f"{layout.REPOSITORIES}/a/_manifests/tags/.bad/current/link",
        f"{layout.REPOSITORIES}/a/_manifests/tags/v1/current/link/more",
        f"{layout.REPOSITORIES}/a/_uploads/loose",
    ],
)
def test_other_keys_are_not_parsed(key: str) -> None:
    """Else a file that an operator left would be treated as part of the registry."""
    assert layout.parse_key(Key(key)) is None
