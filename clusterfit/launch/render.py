"""From a run file to the objects of its release, offline."""

from __future__ import annotations

from dataclasses import dataclass

from clusterfit.config.tree import RunFile
from clusterfit.errors import ConfigError
from clusterfit.launch.charts import RUN_CHART, find_chart
from clusterfit.launch.helm import Helm
from clusterfit.launch.invariants import check_manifests
from clusterfit.launch.manifests import Manifest, read_manifests, sort_manifests
from clusterfit.launch.plan import CONTENT_ANNOTATION
from clusterfit.launch.submission import name_step


@dataclass(frozen=True, slots=True)
class Rendered:
    """A release as it would be installed."""

    run: RunFile
    release: str
    namespace: str
    manifests: list[Manifest]

    @property
    def config_map(self) -> Manifest:
        """The object that holds config.json, plan.json and files-pod.json."""
        return next(item for item in self.manifests if item["kind"] == "ConfigMap")

    @property
    def content(self) -> str:
        """What this submission is told apart by."""
        return str(self.config_map["metadata"]["annotations"][CONTENT_ANNOTATION])


def name_release(run: RunFile) -> str:
    """Return the release's name for the stages that the run file lists: `<name>-<step>`."""
    return f"{run.name}-{name_step(run.stages)}"


def render_run(helm: Helm, run: RunFile, namespace: str) -> Rendered:
    """Render the chart and check every object.

    Raises:
        ConfigError: An object breaks a rule.
        HelmError: The chart refuses the values.
    """
    release = name_release(run)
    text = helm.render(find_chart(RUN_CHART), release, namespace, run.dump())
    objects = [item for item in read_manifests(text) if not is_hook(item)]
    manifests = sort_manifests(objects, run.stages)
    faults = check_manifests(manifests)
    if faults:
        raise ConfigError(*faults)
    return Rendered(run, release, namespace, manifests)


def is_hook(manifest: Manifest) -> bool:
    """Whether an object is no part of the release but run by Helm at some moment."""
    return "helm.sh/hook" in (manifest["metadata"].get("annotations") or {})
