#!/bin/sh
# `docker run --entrypoint htpasswd IMAGE -Bbn USER PASSWORD`, as registry:2 had it.
exec moorage htpasswd "$@"
