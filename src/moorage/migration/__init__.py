"""Reports what a deployment of CNCF Distribution has to change before Moorage serves it.

    advice.py          one line of the report: group, subject, fact, remedy
    configuration.py   the problems of the configuration, sorted into groups
    differences.py     settings that mean something else, or have another default, than in 2.8 and 3.x
    variables.py       REGISTRY_* variables that CNCF Distribution ignores and Moorage applies
    accounts.py        the user that the service runs as
    volume.py          the data directory: permissions for that user, free space
    contents.py        the store: uploads in progress, schema 1, empty blobs, torn links

Everything here only reads, quickly and bounded; `moorage storage check` is the thorough check of a store.

Above: `cli/migrate.py`.  Below: `config/`, `fsck/`, `registry/walk.py`, `storage/`.
"""
