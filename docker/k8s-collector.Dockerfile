# The collector of Kubernetes, in a pod with a service account: deploy/kubernetes/k8s-collector.yaml; see docs/k8s-collector.md
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends clang libbpf-dev llvm python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/ebpf-net
WORKDIR /src
COPY . .
RUN /opt/ebpf-net/bin/pip install --no-cache-dir '.[k8s]' \
 && /opt/ebpf-net/bin/pip uninstall --yes pip setuptools

FROM ${BASE}
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/ebpf-net /opt/ebpf-net
ENV PATH=/opt/ebpf-net/bin:$PATH
USER 65534:65534
EXPOSE 7002
# Where its user may write, for those who give other options.
ENV EBPF_NET_LOG_FILE_PATH=/tmp/ebpf_net.log
ENTRYPOINT ["k8s-collector", "--log-console"]
CMD ["--no-log-file"]
