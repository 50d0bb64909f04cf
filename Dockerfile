# The gateway as a container: `uvicorn shared.asgi:app`. docs/deploy.md explains how to build and run it.
#   docker build -t tollgate .                       the gateway
#   docker build -t tollgate-simulator --target simulator .
# The base image is pinned by its digest; SECURITY.md says how to renew it.

FROM python:3.13-slim@sha256:ffb752e139c0a19692a43af8d8523b274222dd68eebad5d583b45c2201c6e30a AS packages
COPY requirements.txt requirements-container.txt ./
RUN pip install --no-cache-dir --require-hashes --only-binary :all: --target /packages \
    --requirement requirements.txt --requirement requirements-container.txt

FROM python:3.13-slim@sha256:ffb752e139c0a19692a43af8d8523b274222dd68eebad5d583b45c2201c6e30a AS base
# The file system is read-only at run time, so byte code is compiled here, and not at every start.
ENV PYTHONPATH=/packages PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin tollgate
WORKDIR /app
COPY --from=packages /packages /packages

FROM base AS simulator
COPY simulator simulator
RUN python -m compileall -q simulator
USER 10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "simulator"]

FROM base AS gateway
COPY shared shared
RUN python -m compileall -q shared \
    && printf '#!/bin/sh\nPYTHONPATH=/packages:/app exec python -m shared.cli "$@"\n' >/usr/local/bin/tollgate \
    && chmod 755 /usr/local/bin/tollgate
# Numeric, so that Kubernetes can check that it is not root.
USER 10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
# SIGTERM: no new connections, 60 s for open streams, then the usage rows are written. Give the container more time than
# that to stop (compose: stop_grace_period, Kubernetes: terminationGracePeriodSeconds).
# The other options: shared/edges/http_protocol.py. `tests/edges/test_http_protocol.py` holds both together.
CMD ["python", "-m", "uvicorn", "shared.asgi:app", "--host", "0.0.0.0", "--port", "8080", \
    "--http", "shared.edges.http_protocol:Protocol", "--ws", "shared.edges.websocket_protocol:Protocol", \
    "--ws-per-message-deflate", "false", "--ws-max-size", "16777216", \
    "--no-proxy-headers", "--no-access-log", "--no-server-header", \
    "--timeout-keep-alive", "130", "--limit-concurrency", "4096", \
    "--timeout-graceful-shutdown", "60"]
