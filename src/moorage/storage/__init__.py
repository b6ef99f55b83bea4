"""Storage: objects under keys, and uploads.  `driver.py` is the interface, the rest are drivers and their parts.

    memory.py            in this process
    filesystem/          files below one directory
    object_store/        shared by all object stores: driver, uploads, errors, retries
    s3/ gcs/ azure/      requests to one kind of object store
    middleware/          URLs that clients are redirected to
    instrumented.py      any driver, with the time and the outcome of each call reported

Reading order: `driver.py`, `memory.py`, `filesystem/driver.py`, `object_store/interface.py`,
`object_store/driver.py`.
"""
