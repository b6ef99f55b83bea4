"""`storage`: exactly one driver, and the options of all drivers."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from moorage.config.sections.base import (
    DRIVER_FLAG,
    DriverFlag,
    Flag,
    LoosePath,
    LooseText,
    Period,
    Section,
    Whole,
    at_least,
    duration_or,
    one_of,
    period_within,
    positive_or,
    raised_to,
    setting,
)

__all__ = [
    "DRIVERS",
    "S3",
    "Azure",
    "AzureCredentials",
    "Cache",
    "Delete",
    "Filesystem",
    "GarbageCollection",
    "Gcs",
    "Inmemory",
    "Maintenance",
    "ReadOnly",
    "Redirect",
    "Storage",
    "TagOptions",
    "UploadPurging",
]

_MIB: Final = 2**20
_GIB: Final = 2**30
_DAY_S: Final = 24 * 3600.0
_TEN_YEARS_S: Final = 3650 * _DAY_S


class Delete(Section):
    """Deletion by clients."""

    enabled: Flag = setting(False, "Allow clients to delete blobs, manifests and tags.")
    undo: Annotated[float, period_within(0.0, _TEN_YEARS_S)] = setting(
        168 * 3600.0,
        "How long deleted tags, manifests and repositories, and the previous content of moved tags, can be "
        "restored. Garbage collection keeps their bytes that long; 0: what is deleted cannot be restored.",
        unit="duration",
        own=True,
    )


class Redirect(Section):
    """Redirects of downloads to the object store."""

    disable: Flag = setting(
        False, "Send blobs through the registry instead of redirecting clients to the object store."
    )


class Cache(Section):
    """Cache of blob metadata."""

    blobdescriptor: Annotated[Literal["", "inmemory", "redis"], one_of("", "inmemory", "redis")] = setting(
        "", "Cache of blob sizes; empty: none. [Caching](caching.md) compares both."
    )
    layerinfo: LooseText = setting("", "Deprecated.", instead="storage.cache.blobdescriptor")
    blobdescriptorsize: Annotated[int, positive_or(1_000_000)] = setting(
        10_000, "Entries of the cache `inmemory`; 0 or less is a million."
    )
    links: Annotated[float, period_within(0.0, 10.0)] = setting(
        2.0,
        "How long a worker may cache, for an object store, that a repository has a blob or a manifest. Deletion "
        "by digest is answered that much later. Must be the same on all hosts; 0: no cache.",
        unit="duration",
        own=True,
    )


class TagOptions(Section):
    """Tags."""

    concurrencylimit: Annotated[int, at_least(0)] = setting(
        0, "Tags read concurrently when a deleted manifest is pushed again.", shown="16"
    )


class UploadPurging(Section):
    """Removal of abandoned uploads."""

    enabled: Flag = setting(True, "Remove abandoned uploads.")
    age: Period = setting(168 * 3600.0, "Age from which an upload is abandoned.", unit="duration")
    interval: Period = setting(24 * 3600.0, "Time between two runs.", unit="duration")
    dryrun: Flag = setting(False, "Only log what would be removed.")


class ReadOnly(Section):
    """Read-only mode."""

    enabled: Flag = setting(False, "Refuse every write.")


class GarbageCollection(Section):
    """Removal of content that no tag, manifest, push in progress or undo period needs."""

    enabled: Flag = setting(
        False, "Collect garbage while serving, on one node of the cluster at a time.", own=True
    )
    interval: Period = setting(_DAY_S, "Time between two runs.", unit="duration", own=True)
    deleteuntagged: Flag = setting(
        False, "Delete also manifests that no tag, index or subject leads to.", own=True
    )
    grace: Annotated[float, period_within(0.0, _TEN_YEARS_S)] = setting(
        _DAY_S,
        "Age below which unreferenced content is kept: at least the longest time from the first blob of a push to "
        "its manifest.",
        unit="duration",
        own=True,
    )
    wait: Annotated[float, period_within(0.0, _DAY_S)] = setting(
        600.0,
        "Time between the announcement of what a run will remove and its removal, in which every request that "
        "needs it keeps it.",
        unit="duration",
        own=True,
    )
    foreignwriters: Flag = setting(
        False,
        "Another registry, such as CNCF Distribution, also writes to this store: runs only report what they would "
        "remove.",
        own=True,
    )


class Maintenance(Section):
    """Maintenance."""

    garbagecollection: GarbageCollection = setting(GarbageCollection, "Garbage collection.", own=True)
    uploadpurging: UploadPurging = setting(UploadPurging, "Removal of abandoned uploads.")
    readonly: ReadOnly = setting(ReadOnly, "Read-only mode: every write is refused.")


class Filesystem(Section):
    """Directory of the local file system."""

    rootdirectory: LoosePath = setting(
        "/var/lib/registry", "Directory of all data; a relative path starts at the working directory."
    )
    maxthreads: Annotated[int, raised_to(25)] = setting(
        100, "Concurrent file operations; fewer than 25 count as 25."
    )


class Inmemory(Section):
    """Memory of one process, lost when it ends; for trials."""


class S3(Section):
    """Amazon S3 and compatible stores."""

    bucket: LooseText = setting("", "Bucket; must exist.", required=True)
    region: LooseText = setting("", "Region; optional with `regionendpoint`.")
    regionendpoint: LooseText = setting("", "Address of another service than Amazon S3.")
    forcepathstyle: Annotated[bool | None, DRIVER_FLAG] = setting(
        None, "Bucket in the path instead of the host name.", shown="true with `regionendpoint`"
    )
    redirectendpoint: LooseText = setting("", "Scheme and host in the URLs of redirects.")
    accesskey: LooseText = setting(
        "", "Access key; else environment, profiles, web identity, container or instance role.", secret=True
    )
    secretkey: LooseText = setting("", "Secret key.", secret=True)
    sessiontoken: LooseText = setting("", "Session token of temporary keys.", secret=True, own=True)
    encrypt: DriverFlag = setting(False, "Encrypt objects on the server.")
    keyid: LooseText = setting("", "KMS key for the encryption; needs `encrypt`.")
    secure: DriverFlag = setting(True, "HTTPS to the service.")
    skipverify: DriverFlag = setting(False, "Do not verify the service's certificate.")
    cabundle: LoosePath = setting(
        "", "PEM file of the authorities that sign the service's certificate, instead of the system's.", own=True
    )
    v4auth: DriverFlag = setting(True, "Signature version 4; version 2 is refused.")
    chunksize: Annotated[int, at_least(5 * _MIB, 5 * _GIB)] = setting(
        10 * _MIB, "Chunk size of uploads; two are in memory for each upload.", unit="bytes"
    )
    multipartcopychunksize: Annotated[int, at_least(5 * _MIB, 5 * _GIB)] = setting(
        32 * _MIB, "Part size of copies.", unit="bytes"
    )
    multipartcopymaxconcurrency: Annotated[int, at_least(1)] = setting(
        100, "Parts copied concurrently, at most 8 in each worker.", shown="8"
    )
    multipartcopythresholdsize: Annotated[int, at_least(0, 5 * _GIB)] = setting(
        32 * _MIB, "Size above which objects are copied in parts.", unit="bytes"
    )
    rootdirectory: LoosePath = setting("", "Prefix of every key.")
    storageclass: Annotated[
        str,
        one_of(
            "", "none", "standard", "reduced_redundancy", "standard_ia", "onezone_ia", "intelligent_tiering",
            "outposts", "glacier_ir", "express_onezone", fold=True,
        ),
    ] = setting("standard", "Storage class of new objects, in any case; `none` sends no header.")  # fmt: skip
    objectacl: Annotated[
        str,
        one_of(
            "", "private", "public-read", "public-read-write", "authenticated-read", "aws-exec-read",
            "bucket-owner-read", "bucket-owner-full-control",
        ),
    ] = setting("private", "Canned ACL of new objects.")  # fmt: skip
    useragent: LooseText = setting("", "User agent sent to the service.", shown="moorage/VERSION")
    usedualstack: DriverFlag = setting(False, "IPv4 and IPv6 addresses of the service.")
    accelerate: DriverFlag = setting(False, "S3 transfer acceleration.")
    usefipsendpoint: DriverFlag = setting(False, "FIPS addresses of the service.")
    loglevel: LooseText = setting("off", "`debug` logs requests to the service, without their bodies.")


class Gcs(Section):
    """Google Cloud Storage."""

    bucket: LooseText = setting("", "Bucket; must exist.", required=True)
    endpoint: LooseText = setting(
        "",
        "Address of the service.",
        shown="STORAGE_EMULATOR_HOST of the environment, else https://storage.googleapis.com",
        own=True,
    )
    keyfile: LoosePath = setting("", "JSON file of credentials; takes precedence over `credentials`.")
    credentials: Mapping[str, Any] = setting(
        dict, "Content of such a file; without both, application default credentials are used.", secret=True
    )
    cabundle: LoosePath = setting(
        "", "PEM file of additional authorities that may sign the service's certificate.", own=True
    )
    rootdirectory: LoosePath = setting("", "Prefix of every key, without slashes at its ends.")
    chunksize: Annotated[int, at_least(256 * 1024)] = setting(
        16 * _MIB, "Chunk size of uploads, a multiple of 256 KiB; two are in memory for each upload.", unit="bytes"
    )
    maxconcurrency: Annotated[int, raised_to(25)] = setting(
        50, "Concurrent requests of a worker; fewer than 25 count as 25."
    )
    useragent: LooseText = setting("", "User agent sent to the service.", shown="moorage/VERSION")


class AzureCredentials(Section):
    """Credentials of Azure."""

    type: Annotated[
        Literal["", "shared_key", "client_secret", "default_credentials"],
        one_of("", "shared_key", "client_secret", "default_credentials"),
    ] = setting("", "Kind of credentials.", shown="`shared_key` with `accountkey`")
    clientid: LooseText = setting("", "Client id of `client_secret`.")
    tenantid: LooseText = setting("", "Tenant id of `client_secret`.")
    secret: LooseText = setting("", "Secret of `client_secret`.", secret=True)


class Azure(Section):
    """Azure Blob Storage."""

    accountname: LooseText = setting("", "Storage account.", required=True)
    accountkey: LooseText = setting("", "Key of the account, for `shared_key`.", secret=True)
    container: LooseText = setting("", "Container; must exist.", required=True)
    realm: LooseText = setting("core.windows.net", "Domain of the cloud.")
    credentials: AzureCredentials = setting(AzureCredentials, "Credentials.")
    rootdirectory: LoosePath = setting("", "Prefix of every key.")
    serviceurl: LooseText = setting("", "Address of the service.", shown="https://ACCOUNT.blob.REALM")
    max_retries: Whole = setting(5, "Attempts of a request after temporary failures; 0 counts as 5, less as 1.")
    retry_delay: Annotated[float, duration_or(0.1)] = setting(
        0.1, "Pause between attempts, multiplied by their number.", unit="duration"
    )
    skipverify: Flag = setting(False, "Do not verify the service's certificate.")
    cabundle: LoosePath = setting(
        "", "PEM file of additional authorities that may sign the service's certificate.", own=True
    )
    useragent: LooseText = setting("", "User agent sent to the service.", shown="moorage/VERSION", own=True)
    connectionstring: LooseText = setting("", "Has no effect, as in CNCF Distribution.", secret=True)

    @property
    def credential_type(self) -> str:
        """Return `credentials.type`; if it is empty, as in 2.8, `shared_key` with an account key."""
        return self.credentials.type or ("shared_key" if self.accountkey else "")


class Storage(Section):
    """Exactly one driver, and options of all drivers."""

    delete: Delete = setting(Delete, "Deletion by clients.")
    redirect: Redirect = setting(Redirect, "Redirects of downloads to the object store.")
    cache: Cache = setting(Cache, "Cache of blob metadata.")
    tag: TagOptions = setting(TagOptions, "Tags.")
    maintenance: Maintenance = setting(Maintenance, "Maintenance.")
    filesystem: Filesystem | None = setting(None, "Driver: directory of the local file system.")
    inmemory: Inmemory | None = setting(None, "Driver: memory.")
    s3: S3 | None = setting(None, "Driver: Amazon S3 and compatible stores.")
    s3aws: S3 | None = setting(None, "Deprecated.", instead="storage.s3")
    gcs: Gcs | None = setting(None, "Driver: Google Cloud Storage.")
    azure: Azure | None = setting(None, "Driver: Azure Blob Storage.")
    swift: Mapping[str, Any] | None = setting(None, "Driver of 2.8, not supported.", secret=True)
    oss: Mapping[str, Any] | None = setting(None, "Driver of 2.8, not supported.", secret=True)

    @property
    def driver(self) -> str:
        """Return the name of the configured driver; "" without one, which `load` refuses."""
        return next((name for name in DRIVERS if getattr(self, name) is not None), "")


DRIVERS: Final = ("filesystem", "inmemory", "s3", "gcs", "azure", "swift", "oss")
"""Keys of `storage` that name a driver; `s3aws` is `s3` in `Settings`."""
