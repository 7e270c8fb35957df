# The Ray nodes' images; one file, three targets, which share their layers. Build them in the root of a clone:
#
#   docker build -f infra/docker/epoch14.Dockerfile --target head       -t REGISTRY/epoch14/head:0.1.0 .
#   docker build -f infra/docker/epoch14.Dockerfile --target trial-cpu  -t REGISTRY/epoch14/trial:0.1.0-cpu .
#   docker build -f infra/docker/epoch14.Dockerfile --target trial-cuda -t REGISTRY/epoch14/trial:0.1.0-cuda .
#
# Packages are those of pyproject.toml, versions and hashes those of requirements-cluster.lock. Layers stand in the
# order of change: torch, other packages, epoch14. uv is mounted, never copied, no build tool stays (BuildKit).

# The digest is the multi-platform index that several public repositories pin for this tag; nobody of us has pulled it.
FROM python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d AS base
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# KubeRay may start a login shell, which forgets the PATH of an image.
# hadolint ignore=SC2016
RUN groupadd --gid 1000 epoch14 \
    && useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash epoch14 \
    && install --directory --owner=1000 --group=1000 /cache /results \
    && echo 'export PATH="/opt/epoch14/bin:$PATH"' > /etc/profile.d/epoch14.sh
ENV PATH=/opt/epoch14/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    EPOCH14_CACHE=/cache


FROM base AS uv
WORKDIR /build
COPY requirements-cluster.lock ./
RUN awk '/^[^ #]/ { wanted = /^(uv|setuptools)==/ } wanted' requirements-cluster.lock > tools.lock \
    && python -m venv /opt/uv \
    && /opt/uv/bin/pip install --quiet --no-cache-dir --no-deps --require-hashes --requirement tools.lock


FROM uv AS package
COPY pyproject.toml README.md ./
COPY trainables trainables
COPY infra infra
COPY pipelines pipelines
RUN /opt/uv/bin/pip wheel --quiet --no-cache-dir --no-deps --no-build-isolation --wheel-dir /dist .


FROM base AS trial-cpu
# The default wheels of torch hold CUDA. The lock has no hash of the CPU wheels: they come by version, over TLS, from
# where uv knows to look; all else is checked against the lock's hashes. hadolint forgets the SHELL of `base`.
# hadolint ignore=DL4006
RUN --mount=from=uv,source=/opt/uv,target=/opt/uv \
    --mount=type=cache,target=/var/cache/uv \
    --mount=type=bind,source=requirements-cluster.lock,target=/build/requirements-cluster.lock \
    /opt/uv/bin/uv venv --quiet --python /usr/local/bin/python /opt/epoch14 \
    && grep -oE '^(torch|torchvision)==[^ ]+' /build/requirements-cluster.lock \
        | xargs /opt/uv/bin/uv pip install --quiet --cache-dir /var/cache/uv \
        --python /opt/epoch14/bin/python --link-mode copy --compile-bytecode \
        --no-deps --torch-backend cpu
RUN --mount=from=uv,source=/opt/uv,target=/opt/uv \
    --mount=type=cache,target=/var/cache/uv \
    --mount=type=bind,source=requirements-cluster.lock,target=/build/requirements-cluster.lock \
    --mount=type=bind,source=pyproject.toml,target=/build/pyproject.toml \
    /opt/uv/bin/uv pip install --quiet --cache-dir /var/cache/uv \
        --python /opt/epoch14/bin/python --link-mode copy --compile-bytecode \
        --requirement /build/pyproject.toml --extra fast --constraint /build/requirements-cluster.lock
RUN --mount=from=uv,source=/opt/uv,target=/opt/uv \
    --mount=from=package,source=/dist,target=/dist \
    /opt/uv/bin/uv pip install --quiet --no-cache \
        --python /opt/epoch14/bin/python --compile-bytecode --no-deps --offline /dist/*.whl
WORKDIR /home/epoch14
USER 1000:1000
ENTRYPOINT ["epoch14"]
CMD ["--help"]


FROM trial-cpu AS head
# The head drives trials and trains none, so it needs no CUDA. GCS, dashboard, Ray clients, metrics.
EXPOSE 6379 8265 10001 8080


FROM base AS trial-cuda
# torch.compile builds C code where it runs. Debian serves one version of each package, so none can be pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
# The wheels bring CUDA's libraries; of the node's driver the container runtime mounts these parts.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
# hadolint ignore=DL4006
RUN --mount=from=uv,source=/opt/uv,target=/opt/uv \
    --mount=type=cache,target=/var/cache/uv \
    --mount=type=bind,source=requirements-cluster.lock,target=/build/requirements-cluster.lock \
    /opt/uv/bin/uv venv --quiet --python /usr/local/bin/python /opt/epoch14 \
    && grep -oE '^(torch|torchvision)==[^ ]+' /build/requirements-cluster.lock \
        | xargs /opt/uv/bin/uv pip install --quiet --cache-dir /var/cache/uv \
        --python /opt/epoch14/bin/python --link-mode copy --compile-bytecode \
        --require-hashes --constraint /build/requirements-cluster.lock
RUN --mount=from=uv,source=/opt/uv,target=/opt/uv \
    --mount=type=cache,target=/var/cache/uv \
    --mount=type=bind,source=requirements-cluster.lock,target=/build/requirements-cluster.lock \
    --mount=type=bind,source=pyproject.toml,target=/build/pyproject.toml \
    /opt/uv/bin/uv pip install --quiet --cache-dir /var/cache/uv \
        --python /opt/epoch14/bin/python --link-mode copy --compile-bytecode \
        --require-hashes --requirement /build/pyproject.toml --extra fast --constraint /build/requirements-cluster.lock
RUN --mount=from=uv,source=/opt/uv,target=/opt/uv \
    --mount=from=package,source=/dist,target=/dist \
    /opt/uv/bin/uv pip install --quiet --no-cache \
        --python /opt/epoch14/bin/python --compile-bytecode --no-deps --offline /dist/*.whl
WORKDIR /home/epoch14
USER 1000:1000
ENTRYPOINT ["epoch14"]
CMD ["--help"]
