"""clusterfit as its users meet it: commands typed in one namespace, and what then is true there.

What the product says is compared with what the cluster says: observations here go through kubectl,
never through the product, except for `fetch`, which is `clusterfit get`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clusterfit.artifacts.layout import RunDirectory
from tests.cluster.commands import CommandError, wait_for
from tests.cluster.manifests import Object, has_condition
from tests.cluster.namespace import DATA_CLAIM, STORAGE_CLAIM, Namespace
from tests.e2e.digits import PROCESSES_PER_NODE, RUN, write_run_file
from tests.e2e.typed import Answer, Typed

STAGE_SECONDS = 420
"""A stage of the digits takes 15 s on two idle cores; a bound, not an expectation."""

# A rank is the process that holds its copy of the log open, however it was started.
KILL_RANK = """
import os, sys
from pathlib import Path
holders = set()
for link in Path("/proc").glob("[0-9]*/fd/*"):
    try:
        if os.readlink(link).endswith(sys.argv[1]):
            holders.add(int(link.parts[2]))
    except OSError:
        pass
pid, = holders
os.kill(pid, int(sys.argv[2]))
"""


@dataclass(frozen=True, slots=True)
class Product:
    """One user with a folder of run files, in one namespace."""

    namespace: Namespace
    folder: Path
    image: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    """What this user's run files have at some dotted keys, unlike everybody's."""
    tools: Path | None = None
    """A folder of programs that this user has in front of all others."""

    # What a user types.

    def begin(self, *words: str | Path) -> Typed:
        """Type `clusterfit WORDS` and look on."""
        argv = [str(Path(sys.executable).with_name("clusterfit")), *map(str, words)]
        return Typed([*argv, f"--namespace={self.namespace.name}"], self.folder, self.environment)

    def type(self, *words: str | Path, timeout_seconds: float = 180) -> Answer:
        """Type `clusterfit WORDS` and wait until it ends."""
        with self.begin(*words) as typed:
            return typed.wait(timeout_seconds)

    def succeed(self, *words: str | Path, timeout_seconds: float = 180) -> Answer:
        """Type something that must succeed."""
        return self.type(*words, timeout_seconds=timeout_seconds).expect(0)

    def submit(self, step: str, changes: Mapping[str, Any] | None = None) -> Answer:
        """Submit the digits, with other values at some dotted keys of the run file."""
        return self.succeed("submit", step, "-f", self.write(changes))

    def write(self, changes: Mapping[str, Any] | None = None) -> Path:
        """Write the run file of the digits and return its path."""
        changes = {**self.changes, **(changes or {})}
        return write_run_file(self.folder / f"{RUN}.yaml", self.image, changes)

    def write_overlay(self, **platform: Any) -> Path:
        """Write what an example's second file says: what only this cluster knows."""
        repository, _, tag = self.image.rpartition(":")
        known = {
            "image": {"repository": repository, "tag": tag},
            "storage": {"claim": STORAGE_CLAIM},
            "data": {"claim": DATA_CLAIM},
        }
        path = self.folder / "cluster.yaml"
        path.write_text(json.dumps({"platform": known | platform}))
        return path

    def put(self, source: Path, target: str) -> None:
        """Copy files onto a claim: `data:PATH` or `storage:PATH`."""
        self.succeed("put", source, target, "-f", self.write())

    def put_results(self, run: RunDirectory, *stages: str) -> None:
        """Copy what a run's stages have made onto the storage claim: go on from there."""
        chosen = self.folder / "chosen"
        for name in ("data", *stages):
            shutil.copytree(run.root / name, chosen / name)
        self.put(chosen, f"storage:{RUN}")

    def fetch(self, path: str = RUN) -> RunDirectory:
        """Bring a run's folder, or a part of it, from the storage claim here."""
        storage = self.folder / "fetched"
        self.succeed("get", f"storage:{path}", storage / path, "-f", self.write())
        return RunDirectory(storage, RUN)

    def status(self) -> tuple[int, dict[str, dict[str, Any]]]:
        """Return the exit code of `clusterfit status`, and what it says of each stage."""
        code, _, stages = self.whole_status()
        return code, stages

    def whole_status(self) -> tuple[int, str, dict[str, dict[str, Any]]]:
        """Return the same, and between the two the phase of the whole run."""
        answer = self.type("status", RUN, "--output=json")
        assert answer.code in (0, 1), str(answer)
        said = json.loads(answer.stdout)
        return answer.code, said["phase"], {item["stage"]: item for item in said["stages"]}

    def wait_for_cause(self, stage: str, word: str, timeout_seconds: float = 120) -> dict[str, Any]:
        """Wait until `clusterfit status` says why a stage does not move; return what it says."""
        return wait_for(
            f"status says {word!r} of {stage}",
            lambda: self.status()[1][stage],
            lambda said: word in said.get("cause", ""),
            timeout_seconds=timeout_seconds,
        )

    @property
    def environment(self) -> dict[str, str]:
        """Of a user's shell."""
        path = os.pathsep.join(filter(None, (str(self.tools or ""), os.environ["PATH"])))
        kubeconfig = str(self.namespace.kubectl.kubeconfig)
        return {"KUBECONFIG": kubeconfig, "COLUMNS": "200", "PATH": path}

    # What is true in the cluster.

    def job(self, stage: str) -> Object | None:
        """Return the job of a stage, if it is there."""
        for kind in ("pytorchjobs.kubeflow.org", "jobs"):
            found = self.namespace.kubectl(
                "get", kind, f"{RUN}-{stage}", "--ignore-not-found", "--output=json"
            )
            if found:
                job: Object = json.loads(found)
                return job
        return None

    def wait_for_job(
        self, stage: str, done: Callable[[Object], bool], timeout_seconds: float = STAGE_SECONDS
    ) -> Object:
        """Wait until a stage's job is in the wanted state; return it."""
        job = wait_for(
            f"stage {stage}",
            lambda: self.job(stage),
            lambda job: job is not None and done(job),
            timeout_seconds=timeout_seconds,
            interval_seconds=0.5,
        )
        assert job is not None
        return job

    def wait_for_success(self, *stages: str, timeout_seconds: float = STAGE_SECONDS) -> None:
        """Wait until stages have succeeded; fail as soon as one has failed."""
        for stage in stages:
            job = self.wait_for_job(stage, lambda job: bool(how_it_ended(job)), timeout_seconds)
            assert how_it_ended(job) == "succeeded", json.dumps(job["status"], indent=1)

    def wait_for_failure(self, stage: str, timeout_seconds: float = STAGE_SECONDS) -> Object:
        """Wait until a stage has failed for good; fail as soon as it has succeeded."""
        job = self.wait_for_job(stage, lambda job: bool(how_it_ended(job)), timeout_seconds)
        assert how_it_ended(job) == "failed", json.dumps(job["status"], indent=1)
        return job

    def pods(self, stage: str, role: str = "worker") -> list[Object]:
        """Return a stage's pods by node rank; a Job's oldest first."""
        labels = f"clusterfit.dev/run={RUN},app.kubernetes.io/component={role}"
        labels += f",clusterfit.dev/stage={stage}" if stage else ""
        pods: list[Object] = self.namespace.kubectl.get("pods", f"--selector={labels}")["items"]
        order = ("labels", "training.kubeflow.org/replica-index")
        return sorted(
            pods,
            key=lambda pod: (
                int(pod["metadata"][order[0]].get(order[1], 0)),
                pod["metadata"]["creationTimestamp"],
            ),
        )

    def wait_for_pods(
        self,
        stage: str,
        done: Callable[[list[Object]], bool],
        timeout_seconds: float = STAGE_SECONDS,
        role: str = "worker",
    ) -> list[Object]:
        """Wait until a stage's pods are in the wanted state; return them."""
        return wait_for(
            f"the pods of {stage or role}",
            lambda: self.pods(stage, role),
            done,
            timeout_seconds=timeout_seconds,
            interval_seconds=0.5,
        )

    def worker(self, stage: str, node: int = 0) -> str:
        """Return the name of a stage's pod; of a Job's, which are named by chance, the newest's."""
        if stage != "cluster":
            return f"{RUN}-{stage}-worker-{node}"
        pods = self.pods(stage)
        return str(pods[-1]["metadata"]["name"]) if pods else ""

    def log(self, pod: str) -> str:
        """Return what a pod has said; nothing where it is not there, or has not started."""
        try:
            return self.namespace.kubectl("logs", pod)
        except CommandError as error:
            if "NotFound" in error.output or "waiting to start" in error.output:
                return ""
            raise

    def wait_for_line(
        self, stage: str, word: str, node: int = 0, timeout_seconds: float = STAGE_SECONDS
    ) -> str:
        """Wait until a worker pod has said something; return all that it has said.

        Fail as soon as the stage has ended without it.
        """

        def observe() -> str:
            job = self.job(stage)  # before the log: what has ended by now says nothing more
            pod = self.worker(stage, node)
            said = self.log(pod) if pod else ""
            if job is not None and how_it_ended(job) and word not in said:
                raise AssertionError(f"{stage} ended without it: {json.dumps(job['status'])}")
            return said

        return wait_for(
            f"worker {node} of {stage} says {word!r}",
            observe,
            lambda said: word in said,
            timeout_seconds=timeout_seconds,
        )

    # What goes wrong.

    def kill_rank(self, stage: str, rank: int) -> None:
        """Kill one process of a stage, in its pod."""
        pod = self.worker(stage, rank // PROCESSES_PER_NODE)
        script = ("python", "-c", KILL_RANK, f"/rank-{rank:05d}.log", "9")
        self.namespace.kubectl("exec", pod, "--", *script)

    def delete_pod(self, name: str, *, by_force: bool = False) -> None:
        """Delete a pod; by force without letting it end."""
        options = ("--grace-period=0", "--force") if by_force else ("--wait=false",)
        self.namespace.kubectl("delete", "pod", name, *options)

    def fill(self, claim: str) -> None:
        """Leave no room on a claim, until its file `ballast` is removed."""
        words = "cat /dev/zero > /claim/ballast 2>/dev/null; test -s /claim/ballast"
        self.namespace.run_on_claim(["sh", "-c", words], claim)

    def evict_pod(self, name: str) -> None:
        """Evict a pod, as a drain or a scheduler with something more important does."""
        metadata = {"name": name, "namespace": self.namespace.name}
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
        path = f"/api/v1/namespaces/{self.namespace.name}/pods/{name}/eviction"
        words = ("create", f"--raw={path}", "--filename=-")
        self.namespace.kubectl(*words, stdin=json.dumps(eviction))


def how_it_ended(job: Object) -> str:
    """Tell whether a job has `succeeded` or `failed` for good; nothing while it goes on."""
    if has_condition(job, "Succeeded") or has_condition(job, "Complete"):
        return "succeeded"
    return "failed" if has_condition(job, "Failed") else ""


def uids(pods: list[Object]) -> list[str]:
    """The pods' uids: a pod that was recreated has its name and another uid."""
    return [pod["metadata"]["uid"] for pod in pods]
