"""Build the cluster's programs from their Go modules, once per version.

Each module is built as the dependency of an empty module of ours: `go install module@version`
refuses modules whose go.mod holds replace directives, as those of Kubernetes and etcd do.
"""

from __future__ import annotations

import json
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster import versions
from tests.cluster.commands import ClusterError, CommandError, run
from tests.cluster.paths import Cache
from tests.cluster.preflight import UnsuitableError

KUBERNETES_VERSION_PACKAGE = "k8s.io/component-base/version"


@dataclass(frozen=True, slots=True)
class Program:
    """One Go program at one version."""

    name: str
    module: str
    version: str
    package: str  # below the module; "" is its root
    variables: tuple[tuple[str, str], ...] = ()  # set by the linker
    recipe: int = 1  # a part of the path, where it was raised

    def path(self, cache: Cache) -> Path:
        """Where it lies once built."""
        recipe = f"-{self.recipe}" if self.recipe > 1 else ""
        return cache.programs / f"{self.module}@{self.version}{recipe}" / self.name


def kubernetes(name: str) -> Program:
    """Name one of the programs in the Kubernetes module."""
    major, minor, _ = versions.KUBERNETES.removeprefix("v").split(".")
    variables = {
        "gitVersion": versions.KUBERNETES,
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
    }
    return Program(
        name,
        "k8s.io/kubernetes",
        versions.KUBERNETES,
        f"/cmd/{name}",
        tuple((f"{KUBERNETES_VERSION_PACKAGE}.{key}", value) for key, value in variables.items()),
    )


APISERVER = kubernetes("kube-apiserver")
CONTROLLER_MANAGER = kubernetes("kube-controller-manager")
SCHEDULER = kubernetes("kube-scheduler")
KUBELET = kubernetes("kubelet")
KUBE_PROXY = kubernetes("kube-proxy")
KUBECTL = kubernetes("kubectl")
ETCD = Program("etcd", "go.etcd.io/etcd/server/v3", versions.ETCD, "")
COREDNS = Program("coredns", "github.com/coredns/coredns", versions.COREDNS, "")
TRAINING_OPERATOR = Program(
    "training-operator",
    "github.com/kubeflow/training-operator",
    versions.TRAINING_OPERATOR,
    "/cmd/training-operator.v1",
)
KUEUE = Program("kueue", "sigs.k8s.io/kueue", versions.KUEUE, "/cmd/kueue")
KWOK = Program("kwok", "sigs.k8s.io/kwok", versions.KWOK, "/cmd/kwok")
KUBECONFORM = Program(
    "kubeconform", "github.com/yannh/kubeconform", versions.KUBECONFORM, "/cmd/kubeconform"
)
# Built as by `go install`: without a Kubernetes version from the linker, Helm 3 renders offline for
# 1.20. Releases before 3.14, too, take one that is older than the charts'.
HELM_3 = Program(
    "helm",
    "helm.sh/helm/v3",
    versions.HELM3,
    "/cmd/helm",
    (("helm.sh/helm/v3/internal/version.version", versions.HELM3),),
    versions.HELM3_RECIPE,
)
HELM_4 = Program(
    "helm",
    "helm.sh/helm/v4",
    versions.HELM4,
    "/cmd/helm",
    (("helm.sh/helm/v4/internal/version.version", versions.HELM4),),
)

CORE = (
    APISERVER,
    CONTROLLER_MANAGER,
    SCHEDULER,
    KUBELET,
    KUBE_PROXY,
    KUBECTL,
    ETCD,
    COREDNS,
    TRAINING_OPERATOR,
    HELM_4,
)
ALL = (*CORE, HELM_3, KUEUE, KWOK, KUBECONFORM)


def build(cache: Cache, *wanted: Program) -> None:
    """Build those programs that the cache lacks."""
    for program in wanted:
        if program.path(cache).exists():
            continue
        with cache.lock("programs"):
            if program.path(cache).exists():
                continue  # another process has built it while we waited
            started = time.monotonic()
            print(f"building {program.name} {program.version}", file=sys.stderr, flush=True)
            build_one(cache, program)
            print(f"  took {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def build_one(cache: Cache, program: Program) -> None:
    """Build one program in a scratch folder and move it into place."""
    with cache.scratch() as folder:
        require = f"require {program.module} {program.version}\n"
        replace = "".join(f"replace {line}\n" for line in staged_modules(program))
        (folder / "go.mod").write_text(
            f"module clusterfit.invalid/build\n\ngo 1.24.0\n\n{require}{replace}"
        )
        linker = ["-s", "-w", *(f"-X={name}={value}" for name, value in program.variables)]
        output = folder / program.name
        package = program.module + program.package
        go(
            "build",
            "-mod=mod",
            "-trimpath",
            "-ldflags",
            " ".join(linker),
            "-o",
            output,
            package,
            cwd=folder,
        )
        program.path(cache).parent.mkdir(parents=True, exist_ok=True)
        output.rename(program.path(cache))


def staged_modules(program: Program) -> list[str]:
    """Spell out the replacements for modules that Kubernetes develops in its own tree.

    Its go.mod points at ./staging/..., which the published module does not hold; the same code is
    published as k8s.io/NAME at v0.MINOR.PATCH.
    """
    if program.module != "k8s.io/kubernetes":
        return []
    text = Path(download(program)["GoMod"]).read_text()
    names = sorted(set(re.findall(r"(k8s\.io/[\w-]+) => \./staging/", text)))
    if not names:
        raise ClusterError(
            f"{program.module} {program.version}: no staged modules found in its go.mod"
        )
    published = "v0." + program.version.removeprefix("v1.")
    return [f"{name} => {name} {published}" for name in names]


def download(program: Program) -> dict[str, Any]:
    """Fetch a program's module and say where its files are (keys GoMod and Dir)."""
    found: dict[str, Any] = json.loads(
        go("mod", "download", "-json", f"{program.module}@{program.version}")
    )
    return found


def build_init(cache: Cache) -> Path:
    """Build the tiny process 1 of the machine and of the pods' sandboxes."""
    target = cache.programs / f"clusterfit-init-{versions.INIT_RECIPE}" / "clusterfit-init"
    if not target.exists():
        source = Path(__file__).with_name("init") / "main.go"
        with cache.lock("programs"), cache.scratch() as folder:
            output = folder / target.name
            go("build", "-trimpath", "-ldflags", "-s -w", "-o", output, source, cwd=folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            output.rename(target)
    return target


def go(*args: str | Path, cwd: Path | None = None) -> str:
    """Run the Go tool for static programs, politely: a build takes minutes."""
    command = ["nice", "-n", "5", "go", *args]
    try:
        return run(command, env={"CGO_ENABLED": "0"}, cwd=cwd, timeout_seconds=3600)
    except CommandError as error:
        if error.returncode == 127:
            raise UnsuitableError(
                "the test cluster's programs are built with Go, which is missing: install it "
                "(go.dev/dl), or set CLUSTERFIT_E2E_KUBECONFIG to use another cluster"
            ) from error
        raise
