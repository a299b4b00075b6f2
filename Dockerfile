# One image per service: docker build --build-arg SERVICE=dns .      (store, vmd, dns, synjitsu, reaper, web, tool)
#
# All of them share one layer with Python and the libraries that every service needs; what a service needs itself is a layer
# on top of that. The versions of the libraries are those of requirements.txt.
#
# BASE is any Debian 12 (or a python:3.11-slim) with or without python3 in it; a closed network gives its own, with
# python3, and python3-venv in BUILD_BASE, and wheels of everything in build/wheels with PIP_FLAGS=--no-index.
ARG BASE=docker.io/library/debian:bookworm-slim
ARG BUILD_BASE=docker.io/library/debian:bookworm-slim

FROM $BUILD_BASE AS build-shared
ARG PIP_FLAGS=
RUN python3 -c 'import ensurepip, venv' 2>/dev/null || { apt-get update && apt-get install -y python3-venv; }
RUN python3 -m venv /build
WORKDIR /src
# With a wildcard it is no mistake that there is no build/wheels.
COPY requirements.txt build/wheels* wheels/
COPY protocol protocol
COPY runtime runtime
RUN sed -n 's/^\([A-Za-z0-9_.-]*==[^ ;]*\).*/\1/p' wheels/requirements.txt > /constraints.txt \
 && /build/bin/pip install -q --no-cache-dir --find-links wheels $PIP_FLAGS -c /constraints.txt \
      --target /opt/jitsu ./protocol ./runtime

FROM build-shared AS build
ARG SERVICE PIP_FLAGS=
COPY . ./
# pip finds what is shared, jitsu-runtime among it, and leaves it out of /own; no index is asked for it.
RUN case "$SERVICE" in tool) what="./services/* ." ;; *) what="./services/$SERVICE" ;; esac \
 && PYTHONPATH=/opt/jitsu /build/bin/pip install -q --no-cache-dir --find-links wheels $PIP_FLAGS -c /constraints.txt \
      --prefix /own $what \
 && mkdir -p /opt/jitsu-own && mv /own/lib/python3*/site-packages /opt/jitsu-own/lib && mv /own/bin /opt/jitsu-own/bin \
 && sed -i '1s|.*|#!/usr/bin/env python3|' /opt/jitsu-own/bin/*
# The mock hypervisor's guest in C (guests/README.md). Where gcc cannot be had, as in a closed network, mock guests are in
# namespaces, or in Python.
RUN [ "$SERVICE" = vmd ] || exit 0; \
    case "$PIP_FLAGS" in *--no-index*) ;; *) command -v gcc >/dev/null \
      || { apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev; } ;; esac; \
    ! command -v gcc >/dev/null || guests/unikernel/build /opt/jitsu-own/bin

FROM $BASE AS shared
RUN command -v python3 >/dev/null \
 || { apt-get update && apt-get install -y --no-install-recommends python3 && rm -rf /var/lib/apt/lists/*; }
RUN mkdir -p /run/jitsu /var/lib/jitsu /etc/jitsu && chown 10001:10001 /run/jitsu /var/lib/jitsu \
 && touch /etc/jitsu/jitsu.toml
COPY --from=build-shared /opt/jitsu /opt/jitsu
COPY deploy/image/healthy /opt/jitsu/bin/healthy
ENV PYTHONPATH=/opt/jitsu-own/lib:/opt/jitsu PATH=/opt/jitsu-own/bin:$PATH PYTHONUNBUFFERED=1 JITSU_CONFIG=/etc/jitsu/jitsu.toml
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 CMD ["bash", "/opt/jitsu/bin/healthy"]
CMD ["sh", "-c", "exec python3 -m jitsu_$JITSU_SERVICE.main"]

FROM shared
ARG SERVICE PACKAGES=
RUN for package in $PACKAGES; do dpkg -s $package >/dev/null 2>&1 || missing="$missing $package"; done; \
    [ -z "$missing" ] || { apt-get update && apt-get install -y --no-install-recommends $missing \
      && rm -rf /var/lib/apt/lists/*; }
COPY --from=build /opt/jitsu-own /opt/jitsu-own
ENV JITSU_SERVICE=$SERVICE
USER 10001:10001
