"""containerd: the container runtime, the network that it gives pods, and its client."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tests.cluster.commands import CommandError, run
from tests.cluster.components import Components
from tests.cluster.images import PAUSE_IMAGE
from tests.cluster.machine import Machine
from tests.cluster.network import POD_GATEWAY, POD_RANGE
from tests.cluster.paths import Cache, State
from tests.cluster.preflight import CNI_PLUGINS

# containerd 1.6 and 2 both read this; 2 knows it as an older format.
CONTAINERD_CONFIG = """\
version = 2
root = "{root}"
state = "{state}"

[grpc]
  address = "{socket}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # Without CAP_SYS_RESOURCE a sandbox's wish for a lower score kills it.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{network}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""

POD_NETWORK = {
    "cniVersion": "0.4.0",
    "name": "clusterfit",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "pods0",
            "isGateway": True,
            "hairpinMode": True,  # a pod may reach itself through its service
            "ipMasq": False,  # there is no way out of the machine to masquerade for
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": POD_RANGE, "gateway": POD_GATEWAY}]],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": "/run/cni-addresses",
            },
        }
    ],
}


def socket(state: State) -> Path:
    """Containerd's socket; a short path, because the kernel allows only 107 characters."""
    return state.root / "containerd.sock"


def start_containerd(cache: Cache, state: State, components: Components) -> None:
    """Start containerd on the images of the cache, without any container of an earlier cluster."""
    network = state.config / "network"
    network.mkdir()
    (network / "clusterfit.conflist").write_text(json.dumps(POD_NETWORK, indent=1))
    config = state.config / "containerd.toml"
    config.write_text(
        CONTAINERD_CONFIG.format(
            root=cache.containerd,
            state=state.root / "containerd",
            socket=socket(state),
            pause=PAUSE_IMAGE,
            plugins=CNI_PLUGINS,
            network=network,
        )
    )
    ctr = Ctr(components.machine, state)
    components.start("containerd", ["containerd", f"--config={config}"])
    components.wait_until_ready("containerd", lambda: ctr("version"))
    leftover = ctr("containers", "list", "--quiet").split()
    if leftover:
        # Their processes died with an earlier machine. Containerd has read them already, so it
        # must start afresh.
        ctr("containers", "delete", *leftover)
        components.kill("containerd")
        components.start_again("containerd")
        components.wait_until_ready("containerd", lambda: ctr("version"))


class Ctr:
    """containerd's own client, in the namespace of Kubernetes."""

    def __init__(self, machine: Machine, state: State) -> None:
        """Speak to the containerd of a cluster."""
        self.machine = machine
        self.socket = socket(state)

    def __call__(self, *args: str | Path, timeout_seconds: float = 60) -> str:
        """Run it and return what it prints."""
        return run(self._command(*args), timeout_seconds=timeout_seconds)

    @contextlib.contextmanager
    def importing(self) -> Iterator[IO[bytes]]:
        """Import the image archive that is written to the yielded file."""
        command = self._command("images", "import", "-")
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError), process.stdin:  # its own words say more
                yield process.stdin
            output = process.stdout.read().decode(errors="replace")
        if process.returncode != 0:
            raise CommandError(command, process.returncode, output)

    def _command(self, *args: str | Path) -> list[str]:
        ctr = ["ctr", "--address", self.socket, "--namespace", "k8s.io", *args]
        return self.machine.enter(ctr)
