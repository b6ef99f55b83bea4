# The container image; docs/deploying/image.md describes it.
#
#   docker build -t moorage .                        every driver and feature
#   docker build -t moorage:slim --target slim .     filesystem and S3
#
# Classic builders build it as well as BuildKit: no frontend directive, no mounts.  Network is used by pip, which takes
# its settings as build arguments (PIP_INDEX_URL, or PIP_NO_INDEX=1 and PIP_FIND_LINKS=/build/wheels for the wheels in
# the context's wheels/), and by apt-get if the base has no busybox.
ARG BASE=python:3.13-slim-trixie


# Prepares what the stages below copy: files, the environment /opt/moorage, compiled bytecode.
FROM ${BASE} AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_NO_INDEX
ARG PIP_FIND_LINKS
# Every file of the image gets this time: 2026-01-01.
ARG SOURCE_DATE_EPOCH=1767225600
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 PIP_ROOT_USER_ACTION=ignore PYTHONHASHSEED=0
RUN command -v busybox || { apt-get update && apt-get install -y --no-install-recommends busybox-static; }
RUN python3 -m venv /build/tools
COPY requirements/image-build.txt requirements/image-sbom.txt wheel[s] /build/wheels/
RUN /build/tools/bin/pip install --require-hashes --only-binary=:all: \
      -r /build/wheels/image-build.txt -r /build/wheels/image-sbom.txt
COPY deploy/image /build/image/
RUN sh /build/image/files.sh /build/files


# Libraries seldom change: their stages come before Moorage's sources, so that builders find them done.
FROM build AS slim-libraries
COPY requirements/image-slim.txt /build/
RUN sh /build/image/libraries.sh /build/image-slim.txt

FROM build AS full-libraries
COPY requirements/image.txt /build/
RUN sh /build/image/libraries.sh /build/image.txt


FROM slim-libraries AS slim-moorage
COPY pyproject.toml README.md LICENSE /build/source/
COPY src /build/source/src/
RUN sh /build/image/moorage.sh

FROM full-libraries AS full-moorage
COPY pyproject.toml README.md LICENSE /build/source/
COPY src /build/source/src/
RUN sh /build/image/moorage.sh


# What both images share.
FROM ${BASE} AS runtime
ARG SOURCE_DATE_EPOCH=1767225600
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="Moorage" \
      org.opencontainers.image.description="A container registry server, drop-in for CNCF Distribution" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="docker.io/library/python:3.13-slim-trixie"
COPY --from=build /build/files/ /
# The volume is sticky and open to all, so that a new one, which takes its mode from here, serves any `--user`.
# Directories that gain or lose an entry have the time of the build; with the same time layers of two builds are equal.
RUN set -eu; \
    library="$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"; \
    programs="$(dirname "$(command -v python3)")"; \
    rm -rf "$library/ensurepip" "$library"/site-packages/pip* "$programs"/pip*; \
    install -d -o 1000 -g 1000 /home/moorage; \
    install -d -o 1000 -g 1000 -m 1777 /var/lib/registry; \
    touch -c -d "@$SOURCE_DATE_EPOCH" /home /home/moorage /var/lib /var/lib/registry \
      "$library" "$library/site-packages" "$programs"
ENV OTEL_TRACES_EXPORTER=none
USER 1000:1000
EXPOSE 5000
VOLUME /var/lib/registry
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=10s --start-period=15s CMD ["moorage", "health"]
ENTRYPOINT ["/entrypoint.sh"]
CMD ["serve"]


FROM runtime AS slim
ENV MOORAGE_IMAGE=slim
COPY --from=slim-libraries /build/libraries/ /
COPY --from=slim-moorage /build/moorage/ /


FROM runtime AS full
ENV MOORAGE_IMAGE=full
COPY --from=full-libraries /build/libraries/ /
COPY --from=full-moorage /build/moorage/ /
