"""The command line: `python -m tests.cluster up | down | env | status | ...`."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from tests.cluster import guard, lifecycle, preflight, programs
from tests.cluster.cluster import Cluster, refer
from tests.cluster.commands import ClusterError
from tests.cluster.paths import CHECKOUT, Cache, State
from tests.cluster.processes import name_process

TOOLS = {
    "helm3": programs.HELM_3,
    "helm4": programs.HELM_4,
    "kubeconform": programs.KUBECONFORM,
    "kubectl": programs.KUBECTL,
}


def main() -> int:
    """Carry out one command. Errors are one message and exit status 1."""
    # A start must clean up when it is interrupted or terminated, in the background too, where a
    # shell has SIGINT ignored.
    for reason in (signal.SIGINT, signal.SIGTERM):
        signal.signal(reason, signal.default_int_handler)
    args = build_parser().parse_args()
    try:
        command = args.command
        if command == "check":
            preflight.check_machine()
            return 0
        cache, state = Cache.from_environment(), State.from_environment()
        if command == "up":
            up(cache, state, args)
        elif command == "down":
            lifecycle.down(state)
        elif command == "guard":
            guard.watch(State(args.state))
        elif command == "build":
            lifecycle.prepare(cache)
            programs.build(cache, *programs.ALL)
        elif command == "env":
            lifecycle.attach(cache, state)
            print(f"export KUBECONFIG={state.kubeconfig}")
        elif command == "tool":
            programs.build(cache, TOOLS[args.name])
            print(TOOLS[args.name].path(cache))
        elif command == "status":
            status(lifecycle.attach(cache, state))
        elif command == "image":
            print(lifecycle.attach(cache, state).build_and_load_image(args.context))
        elif command == "kueue":
            kueue(lifecycle.attach(cache, state), args)
        elif command == "kill":
            refer(cache, state).kill(args.component)
        elif command == "restart":
            restart(cache, state, args.component)
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Describe the commands."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("up", help="start a cluster that stays, or keep the one that runs")
    start.add_argument(
        "--kueue", action="store_true", help="with Kueue, its PyTorchJob integration on"
    )
    start.add_argument(
        "--pretend-nodes", type=int, default=0, metavar="N", help="nodes of 8 GPUs on paper"
    )
    start.add_argument(
        "--owner", type=int, metavar="PID", help="it goes when this process has died"
    )
    commands.add_parser("down", help="stop it and remove everything that it made")
    watch = commands.add_parser("guard", help="remove it once its owner has died; `up` starts this")
    watch.add_argument("state", type=Path)
    commands.add_parser("check", help="say why this computer cannot run it, if it cannot")
    commands.add_parser("build", help="only fill the cache")
    commands.add_parser("env", help="print the variables to export")
    tool = commands.add_parser("tool", help="build a tool if need be and print its path")
    tool.add_argument("name", choices=sorted(TOOLS))
    commands.add_parser("status", help="show the components and the pods")
    image = commands.add_parser(
        "image", help="build the project's image, bring it to the node, print its name"
    )
    image.add_argument("--context", type=Path, default=CHECKOUT)
    queue = commands.add_parser("kueue", help="install, change or remove Kueue")
    queue.add_argument("state", choices=["on", "without-pytorchjob", "off"])
    queue.add_argument("--feature-gate", action="append", default=[], metavar="NAME=true")
    for name in ("kill", "restart"):
        commands.add_parser(name, help=f"{name} one component").add_argument("component")
    return parser


def up(cache: Cache, state: State, args: argparse.Namespace) -> None:
    """Start a cluster that stays, or is another process', with what was asked for."""
    owner = name_process(args.owner) if args.owner else None
    running = lifecycle.up(cache, state, owner=owner)
    if args.kueue:
        running.enable_kueue()
    if args.pretend_nodes:
        running.pretend_nodes(args.pretend_nodes)
    print(f"export KUBECONFIG={state.kubeconfig}")


def kueue(running: Cluster, args: argparse.Namespace) -> None:
    """Bring Kueue into the wanted state."""
    if args.state == "off":
        running.disable_kueue()
    else:
        running.enable_kueue(pytorchjob=args.state == "on", feature_gates=args.feature_gate)


def restart(cache: Cache, state: State, component: str) -> None:
    """Start a component again, whether it runs or was killed."""
    running = refer(cache, state)
    if running.components.is_running(component):
        running.kill(component)
    running.start(component)


def status(running: Cluster) -> None:
    """Show what runs."""
    for name in running.components.names():
        print(f"{name:26}{running.components.log(name)}")
    print(running.kubectl("get", "nodes,pods", "--all-namespaces", "--output=wide"))


if __name__ == "__main__":
    sys.exit(main())
