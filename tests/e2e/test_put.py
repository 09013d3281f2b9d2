"""Images are brought to a claim as their users may write there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.cluster.manifests import claim
from tests.cluster.storage import storage_class
from tests.e2e.product import Product

OWNED_BY_USERS = "owned-by-users"


def test_folder_of_the_images_is_made_by_who_brings_them(
    cluster: Cluster, user: Product, tmp_path: Path
) -> None:
    """The kubelet would make what it shall mount as root, and nobody else could write there."""
    cluster.kubectl.apply(storage_class(OWNED_BY_USERS, {"mode": "0755", "owner": "1000:1000"}))
    try:
        user.namespace.kubectl.create(claim("own", storage_class=OWNED_BY_USERS))
        user = replace(user, changes={"platform.storage": {"claim": "own"}, "platform.data": {}})
        source = tmp_path / "images"
        source.mkdir()
        (source / "0.png").write_bytes(b"an image")
        user.put(source, "data:images")
        user.put(source / "0.png", "data:images/")
        fetched = user.fetch("data/images")
        assert (fetched.storage_root / "data/images/0.png").read_bytes() == b"an image"
        owner = user.namespace.run_on_claim(["stat", "--format=%u:%g", "/claim/data"], "own")
        assert owner == "1000:1000\n"
    finally:
        cluster.kubectl("delete", "storageclass", OWNED_BY_USERS)
