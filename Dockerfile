# The one image of clusterfit: every stage, the supervisor, the helm test, `put` and `get`.
#
#   docker build -t registry.example/clusterfit:0.1.0 .
#   docker build --build-arg WORKER=cpu -t registry.example/clusterfit:0.1.0-cpu .
#
# BASE_IMAGE is any Debian or Ubuntu with Python >= 3.11, its venv module, and certificates. torch brings its
# own CUDA libraries, so the base needs none; the node brings the driver.
ARG BASE_IMAGE=python:3.13-slim-bookworm

FROM ${BASE_IMAGE} AS code
ENV UV_SYSTEM_CERTS=1 UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements/uv.lock requirements/build.lock /build/
RUN python3 -m venv /build/uv \
 && /build/uv/bin/pip install --quiet --require-hashes --requirement /build/uv.lock \
 && python3 -m venv --without-pip /build/hatch \
 && /build/uv/bin/uv pip install --quiet --python /build/hatch/bin/python \
      --require-hashes --requirement /build/build.lock \
 # The code's commands name the Python that the last stage fills.
 && python3 -m venv --without-pip /opt/clusterfit
COPY pyproject.toml README.md LICENSE /build/src/
COPY charts /build/src/charts
COPY clusterfit /build/src/clusterfit
RUN /build/uv/bin/uv build --quiet --python /build/hatch/bin/python --no-build-isolation \
      --wheel --out-dir /build/wheels /build/src \
 && /build/uv/bin/uv pip install --quiet --python /opt/clusterfit/bin/python --no-deps \
      --target /opt/clusterfit-code /build/wheels/*.whl

# Layers in the order in which they change: a change of code writes the last one, less than a megabyte.
FROM ${BASE_IMAGE}
# torch.compile needs a C++ compiler and Python's headers at run time, Triton a C compiler.
RUN apt-get update --quiet \
 && apt-get install --quiet --yes --no-install-recommends g++ \
 && { test -e "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" \
      || apt-get install --quiet --yes --no-install-recommends python3-dev; } \
 && rm -rf /var/lib/apt/lists/*
# gpu or cpu: which faiss comes along. The GPU one also works on nodes without a GPU.
ARG WORKER=gpu
COPY requirements/uv.lock requirements/${WORKER}.lock /opt/requirements/
# Gigabytes, installed where they stay: copied from another stage they would be read anew at each build.
RUN --mount=type=cache,target=/root/.cache/uv \
    export UV_SYSTEM_CERTS=1 UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy PIP_DISABLE_PIP_VERSION_CHECK=1 \
 && python3 -m venv /tmp/uv \
 && /tmp/uv/bin/pip install --quiet --no-cache-dir --require-hashes --requirement /opt/requirements/uv.lock \
 && python3 -m venv --without-pip /opt/clusterfit \
 && /tmp/uv/bin/uv pip install --quiet --python /opt/clusterfit/bin/python \
      --require-hashes --requirement /opt/requirements/${WORKER}.lock \
 && rm -rf /tmp/uv
# Found without PYTHONPATH, which platform.extraEnv may then set to something of the user's own.
RUN echo /opt/clusterfit-code \
      > "$(/opt/clusterfit/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/clusterfit.pth"
COPY --from=code /opt/clusterfit-code /opt/clusterfit-code
# USER: torch asks for a name, and a pod's numeric user may have none.
# LD_LIBRARY_PATH: where GKE's nodes put the driver; elsewhere there is no such folder.
ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib64:/usr/local/nvidia/lib \
    PATH=/opt/clusterfit-code/bin:/opt/clusterfit/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 USER=clusterfit
USER 1000:1000
WORKDIR /tmp
CMD ["clusterfit", "--help"]
