# The one image of clusterfit: every stage, the supervisor, the helm test, `put` and `get`.
#
#   docker build -t registry.example/clusterfit:0.1.0 .
#   docker build --build-arg WORKER=cpu -t registry.example/clusterfit:0.1.0-cpu .
#
# BASE_IMAGE is any Debian or Ubuntu with Python >= 3.11, its venv module, and certificates. torch brings its
# own CUDA libraries, so the base needs none; the node brings the driver.
ARG BASE_IMAGE=python:3.13-slim-bookworm

FROM ${BASE_IMAGE} AS build
# gpu or cpu: which faiss comes along. The GPU one also works on nodes without a GPU.
ARG WORKER=gpu
ENV UV_SYSTEM_CERTS=1 UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements/uv.lock /build/
RUN python3 -m venv /build/uv \
 && /build/uv/bin/pip install --quiet --require-hashes --requirement /build/uv.lock \
 && python3 -m venv --without-pip /opt/clusterfit
# Dependencies change seldom: they are a layer of their own, before the code.
COPY requirements/${WORKER}.lock /build/worker.lock
RUN /build/uv/bin/uv pip install --quiet --python /opt/clusterfit/bin/python \
      --require-hashes --requirement /build/worker.lock
COPY requirements/build.lock /build/
RUN python3 -m venv --without-pip /build/hatch \
 && /build/uv/bin/uv pip install --quiet --python /build/hatch/bin/python \
      --require-hashes --requirement /build/build.lock
COPY pyproject.toml README.md LICENSE /build/src/
COPY clusterfit /build/src/clusterfit
COPY charts /build/src/charts
RUN /build/uv/bin/uv build --quiet --python /build/hatch/bin/python --no-build-isolation \
      --wheel --out-dir /build/wheels /build/src
RUN /build/uv/bin/uv pip install --quiet --python /opt/clusterfit/bin/python --no-deps \
      /build/wheels/*.whl

FROM ${BASE_IMAGE}
# torch.compile needs a C++ compiler and Python's headers at run time, Triton a C compiler.
RUN apt-get update --quiet \
 && apt-get install --quiet --yes --no-install-recommends g++ \
 && { test -e "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" \
      || apt-get install --quiet --yes --no-install-recommends python3-dev; } \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/clusterfit /opt/clusterfit
# USER: torch asks for a name, and a pod's numeric user may have none.
ENV PATH=/opt/clusterfit/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 USER=clusterfit
USER 1000:1000
WORKDIR /tmp
CMD ["clusterfit", "--help"]
