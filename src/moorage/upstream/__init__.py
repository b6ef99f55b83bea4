"""Client of another registry, over the API of OCI distribution: for the pull-through cache, copy and sync.

    client.py         the operations, by the names that ours have
    session.py        requests with authorization, whose unexpected statuses are errors
    uploads.py        mounts and uploads of blobs
    listings.py       tags and repositories, page by page
    referrers.py      referrers, by the API or by the tags that clients maintain
    answers.py        statuses and error bodies become the errors of errors.py
    authorization.py  which Authorization header a request carries
    challenges.py     parses WWW-Authenticate
    tokens.py         Bearer tokens from token servers, cached until they expire
    credentials.py    user names, passwords and identity tokens: of settings, of helper programs
    docker_config.py  those of `docker login` and `podman login`
    transport.py      HTTP: one session, redirects, time limits
    reference.py      names of images and addresses of registries
    errors.py         the errors, drawn as a tree

Nothing that is received is trusted: manifests are proved by their digest here, blobs by their reader; sizes and
times are limited; credentials reach the registry and its token server only, and no message contains them.

Above: `replication/`, `proxy/`, `cli/`, `wiring/`.  Below: aiohttp (extra `mirror`).
"""
