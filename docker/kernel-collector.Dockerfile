# The kernel collector; docs/kernel-collector.md has how to run it, and with which capabilities
ARG BASE=debian:bookworm-slim

# What builds; it stays behind. As far as `wheel` the images have all in common, and one build of it serves them.
FROM ${BASE} AS tools
RUN apt-get update \
 && apt-get install --yes --no-install-recommends clang libbpf-dev llvm python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/build \
 && python3 -m venv --without-pip /opt/ebpf-net
WORKDIR /src
COPY pyproject.toml docker/requirements.py ./

FROM tools AS wheel
RUN python3 requirements.py build >build.txt \
 && /opt/build/bin/pip install --no-cache-dir --requirement build.txt
COPY . .
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheel .

# A layer of their own: a change of the code changes the small one above it alone.
FROM tools AS dependencies
RUN python3 requirements.py run >run.txt \
 && /opt/build/bin/pip --python /opt/ebpf-net/bin/python install --no-cache-dir --requirement run.txt

FROM dependencies AS package
COPY --from=wheel /wheel /wheel
RUN /opt/build/bin/pip --python /opt/ebpf-net/bin/python install --no-deps --root /package /wheel/*
# Stubs and libraries that do not fit one another fail here.
RUN PYTHONPATH=$(echo /package/opt/ebpf-net/lib/*/site-packages) /package/opt/ebpf-net/bin/kernel-collector --version

FROM ${BASE}
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libbpf1 python3 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=dependencies /opt/ebpf-net /opt/ebpf-net
COPY --from=package /package /
# The log is the container's; who wants a file as well names one here.
ENV PATH=/opt/ebpf-net/bin:$PATH EBPF_NET_LOG_FILE_PATH=
ENTRYPOINT ["kernel-collector", "--log-console"]
