# The reducer: docker run --publish 8000:8000 reducer
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends clang libbpf-dev llvm python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/ebpf-net
WORKDIR /src
COPY . .
RUN /opt/ebpf-net/bin/pip install --no-cache-dir '.[reducer]' \
 && /opt/ebpf-net/bin/pip uninstall --yes pip setuptools

FROM ${BASE}
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/ebpf-net /opt/ebpf-net
ENV PATH=/opt/ebpf-net/bin:$PATH
EXPOSE 7001 7010 8000
ENTRYPOINT ["reducer"]
CMD ["--port", "8000", "--prom", "0.0.0.0:7010", "--log-console", "--no-log-file"]
