#!/bin/sh
# Install the requirements $1 into /opt/moorage, below /build/libraries; runs in the Dockerfile.
set -eu
here=$(dirname "$0")

python3 -m venv --without-pip /opt/moorage
/build/tools/bin/pip --python /opt/moorage/bin/python3 install --no-deps --only-binary=:all: --require-hashes -r "$1"
python3 "$here/prepare.py" prune /opt/moorage
python3 "$here/prepare.py" compile /opt/moorage
mkdir -p /build/libraries/opt
mv /opt/moorage /build/libraries/opt/
ln -s /build/libraries/opt/moorage /opt/moorage
python3 "$here/prepare.py" settle /build/libraries
