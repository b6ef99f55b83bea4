"""The keys are CNCF Distribution's, to the letter: an old volume depends on each of them."""

from __future__ import annotations

from moorage.registry import layout
from moorage.types import Digest, RepoName, Tag

HEX = "ab" + "0" * 62
DIGEST = Digest("sha256", HEX)
NAME = RepoName("library/alpine")
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


def test_our_additions_lie_where_the_reference_does_not_look() -> None:
    """It enumerates `revisions` and `tags`, so ours stand beside them."""
    assert layout.referrer_link(NAME, DIGEST, DIGEST) == f"{REPOSITORY}/_referrers/sha256/{HEX}/sha256/{HEX}/link"
    assert layout.deleted_mark(NAME, DIGEST) == f"{REPOSITORY}/_manifests/_deleted/sha256/{HEX}"
