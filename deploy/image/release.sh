#!/bin/sh
# Push an image, attach its SBOM, sign both and verify what was pushed.
#
#   deploy/image/release.sh IMAGE REFERENCE KEY
#
#   IMAGE       a local image, such as moorage
#   REFERENCE   where it is pushed, with a tag: registry.example.com/moorage:1.0.0
#   KEY         cosign's private key; KEY's public half is beside it: cosign.key, cosign.pub
#
# Needs docker, oras and cosign.  Log in beforehand (docker login); COSIGN_PASSWORD holds the key's password.
#   PLAIN_HTTP=1          the registry speaks plain HTTP
#   COSIGN_ARGS="..."     arguments of `cosign sign` in place of --tlog-upload=false (the public log of signatures is
#                         asked for only if they leave that out); COSIGN_VERIFY_ARGS of `cosign verify`
set -eu

if [ $# -ne 3 ]; then
    echo "usage: $0 IMAGE REFERENCE KEY" >&2
    exit 2
fi
image=$1 reference=$2 key=$3
public=${key%.key}.pub

for program in docker oras cosign; do
    command -v "$program" >/dev/null || { echo "$0: $program is not installed" >&2 && exit 1; }
done
for file in "$key" "$public"; do
    [ -r "$file" ] || { echo "$0: cannot read $file; make a pair with: cosign generate-key-pair" >&2 && exit 1; }
done
case "${reference##*/}" in
    *@*) echo "$0: $reference names a digest; name a tag" >&2 && exit 2 ;;
    *:*) ;;
    *) echo "$0: $reference has no tag; name one that was never used, such as the version" >&2 && exit 2 ;;
esac

oras_http='' cosign_http=''
if [ "${PLAIN_HTTP-}" = 1 ]; then
    oras_http=--plain-http cosign_http=--allow-http-registry
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# A tag that is there stays what it is: clients have pinned it.
if oras resolve $oras_http "$reference" >/dev/null 2>&1; then
    echo "$0: $reference exists; a published tag is never changed, use another" >&2
    exit 1
fi

docker run --rm --network none --entrypoint cat "$image" /usr/share/moorage/sbom.cdx.json >"$work/sbom.cdx.json"
docker tag "$image" "$reference"
docker push "$reference"
digest=$(oras resolve $oras_http "$reference")
name=${reference%:*}@$digest

(
    cd "$work"
    oras attach $oras_http --artifact-type application/vnd.cyclonedx+json --format go-template --template "{{.digest}}" "$name" \
        sbom.cdx.json:application/vnd.cyclonedx+json >sbom.digest
)
sbom=${reference%:*}@$(cat "$work/sbom.digest")

for signed in "$name" "$sbom"; do
    # shellcheck disable=SC2086  # several arguments each
    cosign sign --yes --key "$key" ${COSIGN_ARGS---tlog-upload=false} $cosign_http "$signed"
done

for signed in "$name" "$sbom"; do
    # shellcheck disable=SC2086
    cosign verify --key "$public" ${COSIGN_VERIFY_ARGS---insecure-ignore-tlog} $cosign_http "$signed" >/dev/null
done
oras discover $oras_http "$name"
echo "$name"
