"""Stages that stay where a test wants them, so that what it does to them never comes too late."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tests.cluster.manifests import Object
from tests.cluster.namespace import STORAGE_CLAIM
from tests.e2e.product import Product

THIRD_EPOCH = {"third": r"msg=epoch epoch=3 "}
"""Far enough for checkpoints, and far from the end."""

# A rank that has said a line waits while the line's file is there. SIGTERM ends that, unless the
# file hold-on is there.
_HOLD = """
import json, os, re, signal, time
from clusterfit.worker.log import Log

holds = {name: re.compile(line) for name, line in json.loads(os.environ["HOLDS"]).items()}
write = Log._write

def is_asked_to_stop():
    handler = signal.getsignal(signal.SIGTERM)
    return getattr(getattr(handler, "__self__", None), "is_set", False)

def write_and_stay(log, level, msg, fields):
    write(log, level, msg, fields)
    said = "".join(f"{key}={value} " for key, value in {"msg": msg, **fields}.items())
    for name, line in holds.items():
        file = f"/storage/hold-{name}"
        if line.match(said) and os.path.exists(file):
            write(log, "info", "held", {"at": name})
            while os.path.exists(file):
                if is_asked_to_stop() and not os.path.exists("/storage/hold-on"):
                    break
                time.sleep(0.05)

Log._write = write_and_stay
"""


def hooked(product: Product, program: str, **variables: str) -> Product:
    """Return the user, whose workers' Python runs a program first, with these variables set."""
    data = {"sitecustomize.py": program}
    product.namespace.kubectl.create(_config_map("hook", data))
    added = {"PYTHONPATH": "/hook", **variables}
    environment = [{"name": name, "value": value} for name, value in added.items()]
    return _mounted(product, "hook", {"platform.extraEnv": environment})


def held(product: Product, lines: Mapping[str, str], claim: str = STORAGE_CLAIM) -> Product:
    """Return the user, whose ranks stay where they have said one of these lines.

    They say `msg=held at=NAME` then.

    Args:
        product: whose namespace has the claims.
        lines: name -> regular expression of a line, from its `msg=` on.
        claim: of the storage.
    """
    files = [f"/claim/hold-{name}" for name in lines]
    product.namespace.run_on_claim(["touch", *files], claim)
    return hooked(product, _HOLD, HOLDS=json.dumps(dict(lines)))


def hold_on(product: Product) -> None:
    """Let ranks that stay do so although they are asked to stop, until they are let go."""
    product.namespace.run_on_claim(["touch", "/claim/hold-on"])


def let_go(product: Product, *names: str, claim: str = STORAGE_CLAIM) -> None:
    """Let ranks go on from these lines, now and whenever they say them again."""
    product.namespace.run_on_claim(["rm", *(f"/claim/hold-{name}" for name in names)], claim)


def gated(product: Product) -> Product:
    """Return the user, whose workers cannot start before the gate is opened."""
    return _mounted(product, "gate", {})


def open_gate(product: Product) -> None:
    """Give workers that wait at the gate what they cannot start without."""
    product.namespace.kubectl.create(_config_map("gate", {"is": "open"}))


def _config_map(name: str, data: dict[str, str]) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def _mounted(product: Product, name: str, changes: Mapping[str, Any]) -> Product:
    mount = {
        "name": name, "mountPath": f"/{name}", "readOnly": True,
        "source": {"configMap": {"name": name}},
    }  # fmt: skip
    mounts = [*product.changes.get("platform.extraVolumes", []), mount]
    return replace(product, changes={**product.changes, **changes, "platform.extraVolumes": mounts})
