#!/bin/sh
# Make the files of the image that are no Python packages, below the directory $1; runs in the Dockerfile's first stage.
set -eu
files=$1
here=$(dirname "$0")

mkdir -p "$files/usr/bin" "$files/usr/share/moorage" "$files/etc/docker/registry" "$files/etc/distribution"
install -m 0755 "$here/entrypoint.sh" "$files/entrypoint.sh"
install -m 0755 "$here/htpasswd.sh" "$files/usr/bin/htpasswd"
for place in usr/share/moorage etc/docker/registry etc/distribution; do
    install -m 0644 "$here/config.yml" "$files/$place/config.yml"
done
for name in moorage registry; do
    ln -s "/opt/moorage/bin/$name" "$files/usr/bin/$name"
done

# Health checks of years call `wget --spider -q http://localhost:5000/v2/`; Debian's slim images have no wget.
install -m 0755 "$(command -v busybox)" "$files/usr/bin/busybox"
ln -s busybox "$files/usr/bin/wget"

install -m 0644 /etc/passwd /etc/group "$files/etc/"
echo "moorage:x:1000:1000:Moorage:/home/moorage:/bin/sh" >>"$files/etc/passwd"
echo "moorage:x:1000:" >>"$files/etc/group"

# The official Python images bring no bytecode of the standard library.
python3 "$here/prepare.py" standard-library "$files"
python3 "$here/prepare.py" settle "$files"
