# The tracking server: MLflow with basic auth, for a Postgres database and artifacts in S3. In the root of a clone:
#
#   docker build -f infra/docker/mlflow.Dockerfile -t REGISTRY/epoch14/mlflow:0.1.0 .
#
# infra/docker/mlflow.lock pins every package by hash. BuildKit is needed.

# As in epoch14.Dockerfile.
FROM python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d AS base
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN groupadd --gid 1000 mlflow && useradd --uid 1000 --gid 1000 --create-home --shell /usr/sbin/nologin mlflow


FROM base AS uv
WORKDIR /build
COPY requirements.lock ./
RUN awk '/^[^ #]/ { wanted = /^uv==/ } wanted' requirements.lock > tools.lock \
    && python -m venv /opt/uv \
    && /opt/uv/bin/pip install --quiet --no-cache-dir --no-deps --require-hashes --requirement tools.lock


FROM base AS mlflow
ENV PATH=/opt/mlflow/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MLFLOW_DISABLE_TELEMETRY=true
RUN --mount=from=uv,source=/opt/uv,target=/opt/uv \
    --mount=type=cache,target=/var/cache/uv \
    --mount=type=bind,source=infra/docker/mlflow.lock,target=/build/mlflow.lock \
    /opt/uv/bin/uv venv --quiet --python /usr/local/bin/python /opt/mlflow \
    && /opt/uv/bin/uv pip install --quiet --cache-dir /var/cache/uv \
        --python /opt/mlflow/bin/python --link-mode copy --compile-bytecode \
        --require-hashes --requirement /build/mlflow.lock
WORKDIR /home/mlflow
USER 1000:1000
EXPOSE 5000
ENTRYPOINT ["mlflow"]
CMD ["server", "--help"]
