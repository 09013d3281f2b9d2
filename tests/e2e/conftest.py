"""Fixtures for tests on a real cluster.

By default they use this computer's test cluster: the one that was started to be kept
(`make cluster-up`), or else one of their own, stopped at the end. CLUSTERFIT_E2E_KUBECONFIG names
another cluster instead; then

    CLUSTERFIT_E2E_IMAGE          the project's image, where the nodes can pull it
    CLUSTERFIT_E2E_BASE_IMAGE     a small image with python3 (default: python:3.11-slim)
    CLUSTERFIT_E2E_STORAGE_CLASS  a class of ReadWriteMany volumes (default: the cluster's)

and tests that need control over the cluster's components are skipped.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from clusterfit.artifacts.layout import RunDirectory
from tests.cluster import lifecycle
from tests.cluster.addons import OPERATOR_NAMESPACE
from tests.cluster.cluster import Cluster, refer
from tests.cluster.commands import ClusterError, Kubectl
from tests.cluster.images import BASE_IMAGE
from tests.cluster.kueue import KUEUE_NAMESPACE
from tests.cluster.namespace import Namespace
from tests.cluster.paths import Cache, State
from tests.cluster.preflight import UnsuitableError
from tests.cluster.processes import this_process
from tests.e2e.digits import RUN, run_here, write_images
from tests.e2e.product import Product
from tests.e2e.remains import label, remove_remains
from tests.unsuitable import give_up

FAILED = Path(__file__).with_name("failed")
OWN_NAMESPACE = pytest.StashKey[Namespace]()
"""Of a test, from when its setup has begun to make it."""
OTHER_CLUSTER = os.environ.get("CLUSTERFIT_E2E_KUBECONFIG", "")
if OTHER_CLUSTER:  # commands are typed in folders of their own
    OTHER_CLUSTER = str(Path(OTHER_CLUSTER).absolute())


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The test cluster of this computer, for tests that also break it."""
    if OTHER_CLUSTER:
        pytest.skip("needs control over the cluster's components, which only our own gives")
    cache, state = Cache.from_environment(), State.from_environment()
    # It is stopped then too. What is begun in the background ignores Ctrl-C, as do its children.
    before = {
        number: signal.signal(number, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        running = lifecycle.up(cache, state, owner=this_process())
    except UnsuitableError as reason:
        give_up(reason)
    try:
        remove_remains(running)
        yield running
    finally:
        if lifecycle.is_owned_by_this_process(state):
            lifecycle.down(state)
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def kubectl(request: pytest.FixtureRequest) -> Kubectl:
    """The administrator's kubectl, on whichever cluster is tested."""
    if OTHER_CLUSTER:
        return Kubectl(Path(OTHER_CLUSTER))
    running: Cluster = request.getfixturevalue("cluster")
    return running.kubectl


@pytest.fixture(scope="session")
def image(request: pytest.FixtureRequest) -> str:
    """The project's image, as its Dockerfile builds it."""
    if OTHER_CLUSTER:
        name = os.environ.get("CLUSTERFIT_E2E_IMAGE", "")
        if not name:
            pytest.skip("CLUSTERFIT_E2E_IMAGE must name the project's image on that cluster")
        return name
    running: Cluster = request.getfixturevalue("cluster")
    return running.build_and_load_image()


@pytest.fixture
def namespace(kubectl: Kubectl, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """A namespace that enforces `restricted`, with the claims `data` and `storage`."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower())
    name = f"e2e-{words[:40].strip('-')}-{secrets.token_hex(2)}"
    base_image = os.environ.get("CLUSTERFIT_E2E_BASE_IMAGE", "python:3.11-slim")
    own = Namespace(
        name,
        Kubectl(kubectl.kubeconfig, kubectl.program, name),
        base_image if OTHER_CLUSTER else BASE_IMAGE,
    )
    storage_class = os.environ.get("CLUSTERFIT_E2E_STORAGE_CLASS", "") if OTHER_CLUSTER else ""
    request.node.stash[OWN_NAMESPACE] = own
    own.create(label(this_process()), storage_class)
    yield own
    own.delete()


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a few digits, which no test changes."""
    root = tmp_path_factory.mktemp("images")
    write_images(root)
    return root


@pytest.fixture(scope="session")
def reference(images: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The digits run by `clusterfit run` on this computer: what every cluster must arrive at."""
    return run_here("pipeline", images, tmp_path_factory.mktemp("reference"))


@pytest.fixture
def user(namespace: Namespace, image: str, tmp_path: Path) -> Product:
    """A user of a namespace whose claims are empty."""
    return Product(namespace, tmp_path, image)


@pytest.fixture
def product(user: Product, images: Path) -> Product:
    """A user of a namespace whose data claim holds the digits."""
    user.put(images / RUN, f"data:{RUN}")
    return user


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """When a test fails, save what its namespace and the cluster say, before they are gone."""
    report = yield
    own = item.stash.get(OWN_NAMESPACE, None)
    if report.failed and report.when != "teardown" and own is not None:
        folder = FAILED / re.sub(r"[^\w.-]+", "_", item.name)
        shutil.rmtree(folder, ignore_errors=True)
        own.save(folder)
        logs = State.from_environment().logs
        if not OTHER_CLUSTER and logs.is_dir():
            shutil.copytree(logs, folder / "cluster")
            for operator in (OPERATOR_NAMESPACE, KUEUE_NAMESPACE):
                for path in State.from_environment().pod_logs.glob(f"{operator}_*"):
                    with contextlib.suppress(shutil.Error):  # the kubelet writes there meanwhile
                        shutil.copytree(path, folder / "cluster" / path.name)
        report.sections.append(("cluster", f"objects, events and logs are in {folder}"))
        if not OTHER_CLUSTER:
            _mend(report)
    return report


def _mend(report: pytest.TestReport) -> None:
    """Keep one failure from becoming that of every test after it."""
    try:
        refer(Cache.from_environment(), State.from_environment()).mend()
    except ClusterError as error:
        report.sections.append(("cluster", f"it could not be mended: {error}"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run first what starts clusters of its own: there is one per computer."""
    items.sort(key=lambda item: item.path.name != "test_cluster_lifecycle.py")
