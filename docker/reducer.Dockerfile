# The reducer: docker run --publish 8000:8000 --publish 7010:7010 --volume ebpf-net:/data reducer --prom 0.0.0.0:7010 --data-dir /data;
# see docs/reducer.md
ARG BASE=debian:bookworm-slim

# What builds; it stays behind. The images have `tools` and `wheel` in common: one build of them serves all.
FROM ${BASE} AS tools
RUN apt-get update \
 && apt-get install --yes --no-install-recommends clang libbpf-dev llvm python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/build \
 && python3 -m venv --without-pip /opt/ebpf-net
WORKDIR /src

# What else is in pyproject.toml may change, and nothing is installed anew.
FROM tools AS requirements
COPY pyproject.toml docker/requirements.py ./
RUN python3 requirements.py build >build.txt \
 && python3 requirements.py run reducer >run.txt

FROM tools AS wheel
COPY --from=requirements /src/build.txt .
RUN /opt/build/bin/pip install --no-cache-dir --requirement build.txt
COPY . .
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheel .

# A layer of their own: a change of the code changes the small one above it alone.
FROM tools AS dependencies
COPY --from=requirements /src/run.txt .
RUN /opt/build/bin/pip --python /opt/ebpf-net/bin/python install --no-cache-dir --requirement run.txt

FROM dependencies AS package
COPY --from=wheel /wheel /wheel
RUN /opt/build/bin/pip --python /opt/ebpf-net/bin/python install --no-deps --root /package /wheel/*
# Stubs and libraries that do not fit one another fail here.
RUN PYTHONPATH=$(echo /package/opt/ebpf-net/lib/*/site-packages) /package/opt/ebpf-net/bin/reducer --version

FROM ${BASE}
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/*
# A new volume there is its user's.
RUN install --directory --owner 65534 --group 65534 /data
COPY --from=dependencies /opt/ebpf-net /opt/ebpf-net
COPY --from=package /package /
# The log is the container's; who wants a file as well names one here.
ENV PATH=/opt/ebpf-net/bin:$PATH EBPF_NET_LOG_FILE_PATH=
USER 65534:65534
EXPOSE 7001 7010 8000
ENTRYPOINT ["reducer", "--log-console"]
CMD ["--prom", "0.0.0.0:7010"]
