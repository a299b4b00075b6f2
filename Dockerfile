# One image per service: docker build --build-arg SERVICE=dns .      (store, vmd, dns, synjitsu, reaper, tool)
#
# BASE is any Debian 12 (or a python:3.11-slim) with or without python3 in it; a closed network gives its own, with
# python3, and python3-venv in BUILD_BASE, and wheels of everything in build/wheels with PIP_FLAGS=--no-index.
ARG BASE=docker.io/library/debian:bookworm-slim
ARG BUILD_BASE=docker.io/library/debian:bookworm-slim

FROM $BUILD_BASE AS build
ARG SERVICE PIP_FLAGS=
RUN python3 -c 'import ensurepip, venv' 2>/dev/null || { apt-get update && apt-get install -y python3-venv; }
RUN python3 -m venv /build
COPY . /src
WORKDIR /src
RUN mkdir -p build/wheels \
 && case "$SERVICE" in tool) what="./protocol ./services/* ." ;; *) what="./protocol ./services/$SERVICE" ;; esac \
 && /build/bin/pip install --no-cache-dir --find-links build/wheels $PIP_FLAGS --target /opt/jitsu $what \
 && sed -i '1s|.*|#!/usr/bin/env python3|' /opt/jitsu/bin/*
# The mock hypervisor's guest in C (guests/README.md). Where gcc cannot be had, as in a closed network, mock guests are in
# namespaces, or in Python.
RUN [ "$SERVICE" = vmd ] || exit 0; \
    case "$PIP_FLAGS" in *--no-index*) ;; *) command -v gcc >/dev/null \
      || { apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev; } ;; esac; \
    ! command -v gcc >/dev/null || guests/unikernel/build /opt/jitsu/bin

FROM $BASE
ARG SERVICE PACKAGES=
RUN packages="$PACKAGES"; command -v python3 >/dev/null || packages="python3 $packages"; \
    for package in $packages; do dpkg -s $package >/dev/null 2>&1 || missing="$missing $package"; done; \
    [ -z "$missing" ] || { apt-get update && apt-get install -y --no-install-recommends $missing \
      && rm -rf /var/lib/apt/lists/*; }
RUN mkdir -p /run/jitsu /var/lib/jitsu /etc/jitsu && chown 10001:10001 /run/jitsu /var/lib/jitsu \
 && touch /etc/jitsu/jitsu.toml
COPY --from=build /opt/jitsu /opt/jitsu
ENV PYTHONPATH=/opt/jitsu PATH=/opt/jitsu/bin:$PATH PYTHONUNBUFFERED=1 JITSU_SERVICE=$SERVICE \
    JITSU_CONFIG=/etc/jitsu/jitsu.toml
USER 10001:10001
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 \
  CMD ["python3", "-m", "jitsu_protocol.healthy"]
CMD ["sh", "-c", "exec python3 -m jitsu_$JITSU_SERVICE.main"]
