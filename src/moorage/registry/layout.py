"""Every storage key.  Nobody else joins keys.

    docker/registry/v2/
    ├── blobs/ALG/HH/HEX/
    │   ├── data                                    the bytes; HH = first two characters of HEX
    │   └── torn                                    ours: the size that data had when its digest was another
    └── repositories/NAME/                          NAME with its slashes; a component never starts with _
        ├── _layers/ALG/HEX/link                    "this repository has that blob"
        ├── _manifests/
        │   ├── revisions/ALG/HEX/link              "... has that manifest"
        │   ├── tags/TAG/current/link               where the tag points
        │   ├── tags/TAG/index/ALG/HEX/link         where it ever pointed
        │   └── _deleted/ALG/HEX                    ours: deleted by digest while tags may still name it
        ├── _referrers/ALG/HEX/ALG/HEX/link         ours: subject first, then the manifest that refers to it
        └── _uploads/UUID/
            ├── startedat, data                     when it began; the bytes so far
            ├── hashstates/ALG/OFFSET               the hash's inner state at a checkpoint
            ├── offset.N                            ours: a checkpoint at byte N without a hash state
            └── state, parts/..., joining/...       ours, in buckets, instead of data (storage/)

A `link` holds the text of a digest without a newline, usually the one in its own path; a sha512 link of the
reference may name a sha256 digest and is followed.  The link of a tag may name `sha256:000...`, which is nothing:
its manifest was deleted and pushed again without it (`manifests.py`).  The link of a referrer also holds the
descriptor of its manifest (`referrer_links.py`).

CNCF Distribution reads and writes the same tree and ignores what is marked "ours".

Source: docs/reference/storage-layout.md, section 1 (registry/storage/paths.go of Distribution 2.8 and 3.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moorage.storage.driver import Key

if TYPE_CHECKING:
    from moorage.types import Digest, RepoName, Tag

__all__ = [
    "BLOBS",
    "MANIFESTS_NAME",
    "REPOSITORIES",
    "ROOT",
    "below",
    "blob_data",
    "deleted_mark",
    "layer_link",
    "layers",
    "manifests",
    "referrer_link",
    "referrers",
    "referrers_of",
    "repository",
    "revision_link",
    "revisions",
    "tag",
    "tag_history",
    "tag_history_link",
    "tag_link",
    "tags",
    "torn_mark",
    "upload_home",
    "uploads",
]

ROOT: Final = Key("docker/registry/v2")
BLOBS: Final = Key(f"{ROOT}/blobs")
REPOSITORIES: Final = Key(f"{ROOT}/repositories")
MANIFESTS_NAME: Final = "_manifests"
"""The directory whose presence makes its parent a repository of the catalog."""


def below(prefix: Key, name: str) -> Key:
    """A child that a listing of `prefix` named."""
    return Key(f"{prefix}/{name}")


def blob_data(digest: Digest) -> Key:
    return Key(f"{BLOBS}/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}/data")


def torn_mark(digest: Digest) -> Key:
    return Key(f"{BLOBS}/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}/torn")


def repository(name: RepoName) -> Key:
    return Key(f"{REPOSITORIES}/{name}")


def layers(name: RepoName) -> Key:
    return Key(f"{REPOSITORIES}/{name}/_layers")


def layer_link(name: RepoName, digest: Digest) -> Key:
    return Key(f"{REPOSITORIES}/{name}/_layers/{digest.algorithm}/{digest.hex}/link")


def manifests(name: RepoName) -> Key:
    """Exists as a prefix iff the repository ever held a manifest: the catalog's criterion."""
    return Key(f"{REPOSITORIES}/{name}/_manifests")


def revisions(name: RepoName) -> Key:
    return Key(f"{REPOSITORIES}/{name}/_manifests/revisions")


def revision_link(name: RepoName, digest: Digest) -> Key:
    return Key(f"{REPOSITORIES}/{name}/_manifests/revisions/{digest.algorithm}/{digest.hex}/link")


def tags(name: RepoName) -> Key:
    return Key(f"{REPOSITORIES}/{name}/_manifests/tags")


def tag(name: RepoName, tag: Tag) -> Key:
    return Key(f"{REPOSITORIES}/{name}/_manifests/tags/{tag}")


def tag_link(name: RepoName, tag: Tag) -> Key:
    return Key(f"{REPOSITORIES}/{name}/_manifests/tags/{tag}/current/link")


def tag_history(name: RepoName, tag: Tag) -> Key:
    return Key(f"{REPOSITORIES}/{name}/_manifests/tags/{tag}/index")


def tag_history_link(name: RepoName, tag: Tag, digest: Digest) -> Key:
    return Key(f"{REPOSITORIES}/{name}/_manifests/tags/{tag}/index/{digest.algorithm}/{digest.hex}/link")


def deleted_mark(name: RepoName, digest: Digest) -> Key:
    return Key(f"{REPOSITORIES}/{name}/_manifests/_deleted/{digest.algorithm}/{digest.hex}")


def referrers(name: RepoName) -> Key:
    return Key(f"{REPOSITORIES}/{name}/_referrers")


def referrers_of(name: RepoName, subject: Digest) -> Key:
    return Key(f"{REPOSITORIES}/{name}/_referrers/{subject.algorithm}/{subject.hex}")


def referrer_link(name: RepoName, subject: Digest, referrer: Digest) -> Key:
    return Key(f"{referrers_of(name, subject)}/{referrer.algorithm}/{referrer.hex}/link")


def uploads(name: RepoName) -> Key:
    return Key(f"{REPOSITORIES}/{name}/_uploads")


def upload_home(name: RepoName, uuid: str) -> Key:
    return Key(f"{REPOSITORIES}/{name}/_uploads/{uuid}")
