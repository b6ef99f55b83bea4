"""The layout of the store: builds and parses every key; no other module joins keys.

    docker/registry/v2/
    ├── blobs/ALG/HH/HEX/
    │   ├── data                                    the bytes; HH = first two characters of HEX
    │   └── torn                                    (M) the size that data had when its digest was another
    └── repositories/NAME/                          NAME with its slashes; a component never starts with _
        ├── _layers/ALG/HEX/link                    "this repository has that blob"
        ├── _manifests/
        │   ├── revisions/ALG/HEX/link              "... has that manifest"
        │   ├── tags/TAG/current/link               where the tag points
        │   ├── tags/TAG/index/ALG/HEX/link         its history: every manifest it pointed at
        │   └── _deleted/ALG/HEX                    (M) deleted by digest while tags may still name it
        ├── _referrers/ALG/HEX/ALG/HEX/link         (M) subject first, then the manifest that refers to it
        ├── _trash/                                 (M) deleted content that can be restored
        │   ├── tags/TAG/STAMP                      a deleted tag
        │   ├── manifests/ALG/HEX/STAMP             a manifest deleted by its digest
        │   ├── layers/ALG/HEX/STAMP                a blob removed from the repository
        │   └── repository/STAMP.NNNNN, STAMP.end   pages of the content of a deleted repository; it is removed
        ├── _removing                               (M) the whole repository is being removed
        ├── _history/STAMP                          (M) changes of tags: which, when, by which user
        └── _uploads/UUID/
            ├── startedat, data                     time of its start; the bytes so far
            ├── hashstates/ALG/OFFSET               the hash's inner state at a checkpoint
            ├── offset.N                            (M) a checkpoint at byte N without a hash state
            └── state, parts/..., joining/...       (M) in buckets, instead of data (storage/)
    docker/registry/v2/_moorage/                    (M)
    ├── leases/NAME                                 the node that does some background work (`lease.py`)
    ├── collection/                                 garbage collection (`collection_state.py`)
    │   ├── KIND.TOKEN, KIND.TOKEN.NNNNN            runs, condemned and doomed digests
    │   ├── reserve                                 space that a run frees on a full disk, to write its markers
    │   └── rescued/ALG/HEX                         a request has relied on a condemned digest
    ├── nodes/INSTANCE                              version of each running node
    ├── pulls/..., usage/...                        time of last pulls, bytes of repositories: not rebuildable
    └── audit/STAMP                                 erased content

A `link` holds the text of a digest without a newline, usually the one in its own path; a sha512 link of the
reference may name a sha256 digest and is followed.  The link of a tag may name `sha256:000...`, which is nothing:
its manifest was deleted, and pushed again without the tag (`tags.py`).  The link of a referrer also holds the
descriptor of its manifest (`referrer_links.py`).

CNCF Distribution reads and writes the same tree and ignores the keys marked (M), which are Moorage's.

Source: docs/reference/storage-layout.md, section 1 (registry/storage/paths.go of Distribution 2.8 and 3.1).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from moorage.errors import RegistryError
from moorage.storage.driver import Key
from moorage.types import Digest, RepoName, Tag, parse_repo_name, parse_tag

__all__ = [
    "AUDIT",
    "BLOBS",
    "COLLECTION",
    "MANIFESTS_NAME",
    "NODES",
    "OWN",
    "PULLS",
    "REMOVING_NAME",
    "REPOSITORIES",
    "ROOT",
    "USAGE",
    "ParsedKey",
    "audit",
    "below",
    "blob_data",
    "collection",
    "deleted_mark",
    "deleted_marks",
    "layer_link",
    "layers",
    "lease",
    "manifests",
    "node",
    "parse_key",
    "pulls",
    "referrer_link",
    "referrers",
    "referrers_of",
    "removal_mark",
    "repository",
    "rescued",
    "revision_link",
    "revisions",
    "tag",
    "tag_events",
    "tag_history",
    "tag_history_link",
    "tag_link",
    "tags",
    "torn_mark",
    "trash",
    "trashed_layer",
    "trashed_manifest",
    "trashed_repository",
    "trashed_tag",
    "upload_home",
    "uploads",
    "usage",
]

ROOT: Final = Key("docker/registry/v2")
BLOBS: Final = Key(f"{ROOT}/blobs")
REPOSITORIES: Final = Key(f"{ROOT}/repositories")
OWN: Final = Key(f"{ROOT}/_moorage")
"""State of Moorage that belongs to no repository."""
PULLS: Final = Key(f"{OWN}/pulls")
COLLECTION: Final = Key(f"{OWN}/collection")
NODES: Final = Key(f"{OWN}/nodes")
AUDIT: Final = Key(f"{OWN}/audit")
USAGE: Final = Key(f"{OWN}/usage")
MANIFESTS_NAME: Final = "_manifests"
"""The directory whose presence makes its parent a repository of the catalog."""
REMOVING_NAME: Final = "_removing"


def below(prefix: Key, name: str) -> Key:
    """Return the key of a child that a listing of `prefix` has returned."""
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


def lease(name: str) -> Key:
    return Key(f"{OWN}/leases/{name}")


def collection(name: str) -> Key:
    """Return the key of a state object of garbage collection (`collection_state.py`)."""
    return Key(f"{COLLECTION}/{name}")


def usage(name: str) -> Key:
    """Return the key of an object with the usage of quotas (`quota/facts.py`)."""
    return Key(f"{USAGE}/{name}")


def audit(stamp: str) -> Key:
    """Return the key of a record of erased content (`stamps.py`)."""
    return Key(f"{AUDIT}/{stamp}")


def pulls(name: str) -> Key:
    """Return the key of a list of pulls (`pulls.py`)."""
    return Key(f"{PULLS}/{name}")


def rescued(digest: Digest) -> Key:
    return Key(f"{COLLECTION}/rescued/{digest.algorithm}/{digest.hex}")


def node(instance: str) -> Key:
    """Return the key of the record of a running node (`nodes.py`)."""
    return Key(f"{NODES}/{instance}")


def manifests(name: RepoName) -> Key:
    """Return the prefix that exists if the repository ever held a manifest: the criterion of the catalog."""
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


def deleted_marks(name: RepoName) -> Key:
    return Key(f"{REPOSITORIES}/{name}/_manifests/_deleted")


def removal_mark(name: RepoName) -> Key:
    """Return the key of the mark with which a repository is in the catalog only while it has a manifest."""
    return Key(f"{REPOSITORIES}/{name}/{REMOVING_NAME}")


def referrers(name: RepoName) -> Key:
    return Key(f"{REPOSITORIES}/{name}/_referrers")


def referrers_of(name: RepoName, subject: Digest) -> Key:
    return Key(f"{REPOSITORIES}/{name}/_referrers/{subject.algorithm}/{subject.hex}")


def referrer_link(name: RepoName, subject: Digest, referrer: Digest) -> Key:
    return Key(f"{referrers_of(name, subject)}/{referrer.algorithm}/{referrer.hex}/link")


def trash(name: RepoName) -> Key:
    return Key(f"{REPOSITORIES}/{name}/_trash")


def trashed_tag(name: RepoName, tag: Tag) -> Key:
    """Return the prefix of all deletions of the tag; this and the next three hold objects named by a stamp."""
    return Key(f"{REPOSITORIES}/{name}/_trash/tags/{tag}")


def trashed_manifest(name: RepoName, digest: Digest) -> Key:
    return Key(f"{REPOSITORIES}/{name}/_trash/manifests/{digest.algorithm}/{digest.hex}")


def trashed_layer(name: RepoName, digest: Digest) -> Key:
    return Key(f"{REPOSITORIES}/{name}/_trash/layers/{digest.algorithm}/{digest.hex}")


def trashed_repository(name: RepoName) -> Key:
    return Key(f"{REPOSITORIES}/{name}/_trash/repository")


def tag_events(name: RepoName) -> Key:
    """Return the prefix of the recorded changes of the repository's tags."""
    return Key(f"{REPOSITORIES}/{name}/_history")


def uploads(name: RepoName) -> Key:
    return Key(f"{REPOSITORIES}/{name}/_uploads")


def upload_home(name: RepoName, uuid: str) -> Key:
    return Key(f"{REPOSITORIES}/{name}/_uploads/{uuid}")


_DIGEST: Final = r"(?P<algorithm>[a-z0-9]+)/(?P<hex>[a-f0-9]+)"
_IN_BLOBS: Final = r"blobs/(?P<algorithm>[a-z0-9]+)/(?P<first>[a-f0-9]{2})/(?P<hex>(?P=first)[a-f0-9]+)"
_IN_REPOSITORY: Final = r"repositories/(?P<name>.+)"
_FORMS: Final = {
    "blob": re.compile(rf"{_IN_BLOBS}/data"),
    "torn": re.compile(rf"{_IN_BLOBS}/torn"),
    "layer": re.compile(rf"{_IN_REPOSITORY}/_layers/{_DIGEST}/link"),
    "revision": re.compile(rf"{_IN_REPOSITORY}/_manifests/revisions/{_DIGEST}/link"),
    "tag": re.compile(rf"{_IN_REPOSITORY}/_manifests/tags/(?P<tag>[^/]+)/current/link"),
    "history": re.compile(rf"{_IN_REPOSITORY}/_manifests/tags/(?P<tag>[^/]+)/index/{_DIGEST}/link"),
    "deleted": re.compile(rf"{_IN_REPOSITORY}/_manifests/_deleted/{_DIGEST}"),
    "referrer": re.compile(rf"{_IN_REPOSITORY}/_referrers/(?P<subject>[a-z0-9]+/[a-f0-9]+)/{_DIGEST}/link"),
    "lease": re.compile(r"_moorage/leases/[^/]+"),
    "collection": re.compile(r"_moorage/collection/.+"),
    "state": re.compile(r"_moorage/(nodes|pulls|usage|audit)/.+"),
    "trash": re.compile(rf"{_IN_REPOSITORY}/_trash/.+"),
    "removing": re.compile(rf"{_IN_REPOSITORY}/_removing"),
    "tag-event": re.compile(rf"{_IN_REPOSITORY}/_history/.+"),
    "upload": re.compile(rf"{_IN_REPOSITORY}/_uploads/(?P<upload>[^/]+)/.+"),
}


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """The parts of a key.  `kind` is one of blob, torn, layer, revision, tag, history, deleted, referrer, lease,
    collection, state, trash, removing, tag-event, upload.

    `digest` is the one in the path, which is usually also the content of the link; `upload` the upload's UUID.
    """

    kind: str
    name: RepoName | None = None
    digest: Digest | None = None
    tag: Tag | None = None
    subject: Digest | None = None
    upload: str = ""


def parse_key(key: Key) -> ParsedKey | None:
    """Return the parts of a key; None for one that neither this registry nor CNCF Distribution writes."""
    rest = key.removeprefix(f"{ROOT}/")
    if rest == key:
        return None
    for kind, form in _FORMS.items():
        match = form.fullmatch(rest)
        if match is not None:
            try:
                return _parsed(kind, match.groupdict())
            except RegistryError:
                return None
    return None


def _parsed(kind: str, parts: dict[str, str]) -> ParsedKey:
    """Return the parsed parts.  Raises RegistryError for a name, digest or tag that clients cannot use."""
    return ParsedKey(
        kind,
        name=parse_repo_name(parts["name"]) if "name" in parts else None,
        digest=Digest.parse(f"{parts['algorithm']}:{parts['hex']}") if "hex" in parts else None,
        tag=parse_tag(parts["tag"]) if "tag" in parts else None,
        subject=Digest.parse(parts["subject"].replace("/", ":")) if "subject" in parts else None,
        upload=parts.get("upload", ""),
    )
