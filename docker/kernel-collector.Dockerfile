# The kernel collector; docs/kernel-collector.md has how to run it, and with which capabilities
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends clang libbpf-dev llvm python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/ebpf-net
WORKDIR /src
COPY . .
RUN /opt/ebpf-net/bin/pip install --no-cache-dir . \
 && /opt/ebpf-net/bin/pip uninstall --yes pip setuptools

FROM ${BASE}
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libbpf1 python3 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/ebpf-net /opt/ebpf-net
ENV PATH=/opt/ebpf-net/bin:$PATH
ENTRYPOINT ["kernel-collector"]
