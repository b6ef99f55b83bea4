#!/bin/sh
# Build Moorage's wheel, install it beside the libraries in /opt/moorage and move its files to /build/moorage, with a
# description of everything in the image; runs in the Dockerfile.
set -eu
here=$(dirname "$0")
pip=/build/tools/bin/pip

$pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /build/dist /build/source
$pip --python /opt/moorage/bin/python3 install --no-deps --no-index /build/dist/moorage-*.whl
mkdir -p /build/moorage/usr/share/moorage
/build/tools/bin/cyclonedx-py environment --no-validate --output-reproducible --mc-type application --of JSON \
    --pyproject /build/source/pyproject.toml --output-file /build/python.cdx.json /opt/moorage/bin/python3
python3 "$here/sbom.py" /build/python.cdx.json /build/dist/moorage-*.whl \
    /build/moorage/usr/share/moorage/sbom.cdx.json
python3 "$here/prepare.py" take-out /opt/moorage /build/moorage
python3 "$here/prepare.py" settle /build/moorage
