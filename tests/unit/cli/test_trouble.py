"""Commands on a run while the API server is in trouble: they come through, or say one line."""

from __future__ import annotations

import pytest

from clusterfit.launch.api import PODS
from clusterfit.launch.plan import read_release
from tests.unit.cli.conftest import RunCommand
from tests.unit.conftest import Clock
from tests.unit.launch.api_server import RESET
from tests.unit.launch.object_server import Objects, worker_pod

COMMANDS = [
    ("list",),
    ("status", "digits"),
    ("logs", "digits", "extract"),
    ("suspend", "digits"),
    ("resume", "digits"),
    ("cancel", "digits"),
    ("delete", "digits"),
]
MANY = 10_000


@pytest.fixture
def digits(submitted: Objects, clock: Clock) -> Objects:
    """A run whose first stage runs."""
    extract = read_release(submitted.find_config_map()).plan.stages[0]
    for node, name in enumerate(extract.pods):
        submitted.put(PODS, worker_pod(extract, name, node=node))
        submitted.logs[name] = ["2026-11-23T12:00:01.000Z said"]
    return submitted


@pytest.mark.parametrize("status", [RESET, 429, 500, 503])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_what_is_brief_is_not_noticed(
    command: tuple[str, ...], status: int, digits: Objects, run_command: RunCommand
) -> None:
    if command[0] == "delete":  # nobody lets its pods go here
        for path in [path for path in digits.by_path if "/pods/" in path]:
            del digits.by_path[path]
    changing = {"PATCH", "DELETE"}

    def look_on(method: str, _path: str) -> None:
        if method in changing:
            changing.clear()
            digits.trouble.extend([status] * 2)

    digits.look_on = look_on
    digits.trouble.extend([status] * 2)
    answer = run_command(*command)
    assert answer.code == 0, answer.err
    assert answer.err == ""
    assert not digits.trouble
    assert bool(changing) is (command[0] in ("list", "status", "logs", "resume"))


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (401, 77, "the cluster refuses your credentials (401); log in again"),
        (403, 77, "refused (403): in trouble"),
        (429, 69, "the cluster is overloaded (429); try again in a minute"),
        (500, 69, "the cluster answered 500: in trouble"),
        (RESET, 69, "is the cluster up, and is --context the right one?"),
    ],
)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_what_lasts_is_one_line(
    command: tuple[str, ...], status: int, code: int, words: str, digits: Objects,
    run_command: RunCommand,
) -> None:  # fmt: skip
    digits.trouble.extend([status] * MANY)
    answer = run_command(*command)
    assert answer.code == code
    (line,) = answer.err.splitlines()
    assert line.startswith("error: ")
    assert words in line
