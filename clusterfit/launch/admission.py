"""What the server would say of an object, admission included, without keeping it."""

from __future__ import annotations

from clusterfit.launch.api import Api, Resource
from clusterfit.launch.failures import AlreadyExistsError, NotFoundError
from clusterfit.launch.manifests import Manifest


def try_object(api: Api, resource: Resource, manifest: Manifest) -> None:
    """Let the server judge an object; one whose name is taken has passed.

    Raises:
        ClusterError: It would be refused.
    """
    try:
        api.create(resource, manifest, dry_run=True)
    except AlreadyExistsError:
        pass  # admission was passed before the name was looked at
    except NotFoundError:
        # Whoever may not grant all rights needs the Role to be there first, which comes with it.
        if manifest["kind"] != "RoleBinding":
            raise
