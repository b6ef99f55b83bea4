#!/bin/sh
# The entry point of registry:2 and registry:3: a configuration file, a command of the registry, or any other program.
set -e

if [ $# -eq 0 ]; then
    set -- serve
fi
case "$1" in
    *.yaml | *.yml) set -- registry serve "$@" ;;
    serve | garbage-collect | help | -*) set -- registry "$@" ;;
esac
if ! command -v "$1" >/dev/null; then
    echo "$1: no such program in this image; a command of Moorage begins with its name (moorage $1), and" \
        "\"moorage help\" lists them" >&2
    exit 127
fi
exec "$@"
