"""Proofs that an image built here runs on the node, and that a small change is a small rebuild."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.images import BASE_IMAGE
from tests.cluster.namespace import Namespace
from tests.cluster.project import image_store

# In the order that makes rebuilds quick: what changes seldom first.
DOCKERFILE = """\
ARG BASE_IMAGE
FROM $BASE_IMAGE
COPY dependencies /opt/dependencies
RUN id -u > /opt/built-by
COPY code.py /opt/code.py
USER 10001
ENTRYPOINT ["python3", "/opt/code.py"]
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A build context of two layers."""
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    (tmp_path / "dependencies").write_bytes(bytes(1 << 20))
    (tmp_path / "code.py").write_text("print('first')")
    return tmp_path


def test_image_runs_and_follows_its_context(
    cluster: Cluster, namespace: Namespace, context: Path
) -> None:
    command = ["python3", "/opt/code.py"]

    def run_image(pod: str, image: str) -> str:
        return Namespace(namespace.name, namespace.kubectl, image).run(pod, command)

    def build(context: Path) -> str:
        return cluster.build_and_load_image(context, name="trial")

    first = build(context)
    assert run_image("first", first) == "first\n"
    assert build(context) == first

    (context / "code.py").write_text("print('second')")
    second = build(context)
    assert second != first
    assert run_image("second", second) == "second\n"
    assert run_image("again", first) == "first\n"


def test_what_a_killed_build_has_left_is_in_nobodys_way(cluster: Cluster, context: Path) -> None:
    store = image_store(cluster.cache)

    def find_left() -> str:
        return store.buildah("containers", "--all", "--quiet")

    store.buildah("from", "--pull-never", BASE_IMAGE)
    assert find_left()
    (context / "code.py").write_text("print('third')")
    cluster.build_and_load_image(context, name="trial")
    assert not find_left()
