"""`storage`: where the registry keeps everything.  Exactly one driver, beside keys that all drivers share."""

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


class Delete(Section):
    """Deletion by clients."""

    enabled: Flag = setting(False, "Let clients delete blobs, manifests and tags.")


class Redirect(Section):
    """Downloads straight from the back end."""

    disable: Flag = setting(
        False, "Send blobs through the registry where the back end could serve them itself. Files always are."
    )


class Cache(Section):
    """What is remembered of blobs."""

    blobdescriptor: Annotated[Literal["", "inmemory", "redis"], one_of("", "inmemory", "redis")] = setting(
        "", "Where sizes of blobs are remembered; empty: nowhere. [Caching](caching.md) compares."
    )
    layerinfo: LooseText = setting("", "Older spelling.", instead="storage.cache.blobdescriptor")
    blobdescriptorsize: Annotated[int, positive_or(1_000_000)] = setting(
        10_000, "Blobs remembered by `inmemory`; 0 or less is a million."
    )
    links: Annotated[float, period_within(0.0, 10.0)] = setting(
        2.0,
        "How long a worker may remember, of an object store, that a repository has a blob or a manifest. Deleting "
        "one by digest is answered that much later. The same on all hosts; 0: never.",
        unit="duration",
        ours=True,
    )


class TagOptions(Section):
    """Work on tags."""

    concurrencylimit: Annotated[int, at_least(0)] = setting(
        0, "Tags read at the same time when a manifest that was deleted is pushed again.", shown="16"
    )


class UploadPurging(Section):
    """Removal of abandoned uploads."""

    enabled: Flag = setting(True, "Remove uploads that nobody finished.")
    age: Period = setting(168 * 3600.0, "Age from which an upload counts as abandoned.", unit="duration")
    interval: Period = setting(24 * 3600.0, "Time between two rounds.", unit="duration")
    dryrun: Flag = setting(False, "Only log what would be removed.")


class ReadOnly(Section):
    """A registry that takes nothing."""

    enabled: Flag = setting(False, "Refuse everything that writes.")


class Maintenance(Section):
    """Upkeep."""

    uploadpurging: UploadPurging = setting(UploadPurging, "Removal of abandoned uploads.")
    readonly: ReadOnly = setting(ReadOnly, "A registry that takes nothing.")


class Filesystem(Section):
    """A directory of the local file system."""

    rootdirectory: LoosePath = setting(
        "/var/lib/registry", "Directory that holds everything; a relative one begins at the working directory."
    )
    maxthreads: Annotated[int, raised_to(25)] = setting(
        100, "File operations at the same time; fewer than 25 count as 25."
    )


class Inmemory(Section):
    """Memory of one process, gone when it ends; for trying things out."""


class S3(Section):
    """Amazon S3 and everything that speaks its protocol."""

    bucket: LooseText = setting("", "Bucket; must exist.", required=True)
    region: LooseText = setting("", "Region; may be left out where `regionendpoint` is given.")
    regionendpoint: LooseText = setting("", "Address of another service than Amazon's.")
    forcepathstyle: Annotated[bool | None, DRIVER_FLAG] = setting(
        None, "Bucket in the path instead of the host name.", shown="true where `regionendpoint` is given"
    )
    redirectendpoint: LooseText = setting("", "Scheme and host that clients are redirected to.")
    accesskey: LooseText = setting(
        "", "Access key; else environment, profiles, web identity, container or instance role.", secret=True
    )
    secretkey: LooseText = setting("", "Secret key.", secret=True)
    sessiontoken: LooseText = setting("", "Session token of temporary keys.", secret=True, ours=True)
    encrypt: DriverFlag = setting(False, "Encrypt objects on the server.")
    keyid: LooseText = setting("", "KMS key for the encryption; needs `encrypt`.")
    secure: DriverFlag = setting(True, "HTTPS to the service.")
    skipverify: DriverFlag = setting(False, "Do not verify the service's certificate.")
    cabundle: LoosePath = setting(
        "", "PEM file of the authorities that sign the service's certificate, instead of the system's.", ours=True
    )
    v4auth: DriverFlag = setting(True, "Signature version 4; version 2 is refused.")
    chunksize: Annotated[int, at_least(5 * _MIB, 5 * _GIB)] = setting(
        10 * _MIB, "Size of a chunk of an upload; two are in memory for each.", unit="bytes"
    )
    multipartcopychunksize: Annotated[int, at_least(5 * _MIB, 5 * _GIB)] = setting(
        32 * _MIB, "Size of a part when a large object is copied in parts.", unit="bytes"
    )
    multipartcopymaxconcurrency: Annotated[int, at_least(1)] = setting(
        100, "Parts copied at the same time, 8 at most in each worker.", shown="8"
    )
    multipartcopythresholdsize: Annotated[int, at_least(0, 5 * _GIB)] = setting(
        32 * _MIB, "Larger objects are copied in parts.", unit="bytes"
    )
    rootdirectory: LoosePath = setting("", "Prefix of every key.")
    storageclass: Annotated[
        str,
        one_of(
            "", "none", "standard", "reduced_redundancy", "standard_ia", "onezone_ia", "intelligent_tiering",
            "outposts", "glacier_ir", "express_onezone", fold=True,
        ),
    ] = setting("standard", "Storage class of what is kept, in any case; `none` sends no header.")  # fmt: skip
    objectacl: Annotated[
        str,
        one_of(
            "", "private", "public-read", "public-read-write", "authenticated-read", "aws-exec-read",
            "bucket-owner-read", "bucket-owner-full-control",
        ),
    ] = setting("private", "Canned access list of every object.")  # fmt: skip
    useragent: LooseText = setting("", "User agent told to the service.", shown="moorage/VERSION")
    usedualstack: DriverFlag = setting(False, "IPv4 and IPv6 addresses of the service.")
    accelerate: DriverFlag = setting(False, "S3 transfer acceleration.")
    usefipsendpoint: DriverFlag = setting(False, "FIPS addresses of the service.")
    loglevel: LooseText = setting("off", "`debug` logs every request to the service, without its body.")


class Gcs(Section):
    """Google Cloud Storage."""

    bucket: LooseText = setting("", "Bucket; must exist.", required=True)
    endpoint: LooseText = setting(
        "",
        "Address of the service.",
        shown="STORAGE_EMULATOR_HOST of the environment, else https://storage.googleapis.com",
        ours=True,
    )
    keyfile: LoosePath = setting("", "JSON file of credentials; wins over `credentials`.")
    credentials: Mapping[str, Any] = setting(
        dict, "What the JSON file would hold; without either, Google's usual places are looked at.", secret=True
    )
    cabundle: LoosePath = setting(
        "", "PEM file of authorities that may sign the service's certificate, beside the system's.", ours=True
    )
    rootdirectory: LoosePath = setting("", "Prefix of every key; slashes at its ends do not count.")
    chunksize: Annotated[int, at_least(256 * 1024)] = setting(
        16 * _MIB, "Size of a chunk of an upload, a multiple of 256 KiB; two are in memory for each.", unit="bytes"
    )
    maxconcurrency: Annotated[int, raised_to(25)] = setting(
        50, "Calls at the same time in each worker; fewer than 25 count as 25."
    )
    useragent: LooseText = setting("", "User agent told to the service.", shown="moorage/VERSION")


class AzureCredentials(Section):
    """Who we are to Azure."""

    type: Annotated[
        Literal["", "shared_key", "client_secret", "default_credentials"],
        one_of("", "shared_key", "client_secret", "default_credentials"),
    ] = setting("", "Kind of credentials.", shown="`shared_key` where `accountkey` is given")
    clientid: LooseText = setting("", "Client of `client_secret`.")
    tenantid: LooseText = setting("", "Tenant of `client_secret`.")
    secret: LooseText = setting("", "Secret of `client_secret`.", secret=True)


class Azure(Section):
    """Azure Blob Storage."""

    accountname: LooseText = setting("", "Storage account.", required=True)
    accountkey: LooseText = setting("", "Key of the account, for `shared_key`.", secret=True)
    container: LooseText = setting("", "Container; must exist.", required=True)
    realm: LooseText = setting("core.windows.net", "Domain of the cloud.")
    credentials: AzureCredentials = setting(AzureCredentials, "Who we are to Azure.")
    rootdirectory: LoosePath = setting("", "Prefix of every key.")
    serviceurl: LooseText = setting("", "Address of the service.", shown="https://ACCOUNT.blob.REALM")
    max_retries: Whole = setting(
        5, "Attempts of a request that fails for a passing reason; 0 counts as 5, less as 1."
    )
    retry_delay: Annotated[float, duration_or(0.1)] = setting(
        0.1, "Pause between attempts, times their number.", unit="duration"
    )
    skipverify: Flag = setting(False, "Do not verify the service's certificate.")
    cabundle: LoosePath = setting(
        "", "PEM file of authorities that may sign the service's certificate, beside the system's.", ours=True
    )
    useragent: LooseText = setting("", "User agent told to the service.", shown="moorage/VERSION", ours=True)
    connectionstring: LooseText = setting("", "Known to the reference, which does not use it.", secret=True)

    @property
    def credential_type(self) -> str:
        """What `credentials.type` says; where it says nothing, as with 2.8, a key of the account is used."""
        return self.credentials.type or ("shared_key" if self.accountkey else "")


class Storage(Section):
    """Exactly one of the drivers, and what applies to all of them."""

    delete: Delete = setting(Delete, "Deletion by clients.")
    redirect: Redirect = setting(Redirect, "Downloads straight from the back end.")
    cache: Cache = setting(Cache, "What is remembered of blobs.")
    tag: TagOptions = setting(TagOptions, "Work on tags.")
    maintenance: Maintenance = setting(Maintenance, "Upkeep.")
    filesystem: Filesystem | None = setting(None, "Driver: a directory of the local file system.")
    inmemory: Inmemory | None = setting(None, "Driver: memory.")
    s3: S3 | None = setting(None, "Driver: Amazon S3 and its like.")
    s3aws: S3 | None = setting(None, "Older spelling.", instead="storage.s3")
    gcs: Gcs | None = setting(None, "Driver: Google Cloud Storage.")
    azure: Azure | None = setting(None, "Driver: Azure Blob Storage.")
    swift: Mapping[str, Any] | None = setting(None, "Driver of 2.8 that is not offered.", secret=True)
    oss: Mapping[str, Any] | None = setting(None, "Driver of 2.8 that is not offered.", secret=True)

    @property
    def driver(self) -> str:
        """The name of the chosen driver; "" where nothing is chosen (no loaded settings are so)."""
        return next((name for name in DRIVERS if getattr(self, name) is not None), "")


DRIVERS: Final = ("filesystem", "inmemory", "s3", "gcs", "azure", "swift", "oss")
"""The keys of `storage` that name a driver; `s3aws` has become `s3` by the time there are settings."""
