"""Documents: like Helm where Helm is right to read them, refused with a line where it is not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterfit.config.provenance import Node, Origin
from clusterfit.config.reader import read_yaml
from clusterfit.errors import ConfigError

from .conftest import ReadWithHelm


def _read(text: str) -> Any:
    node, faults = read_yaml(text, "run.yaml")
    assert not faults
    assert node is not None
    return node.plain()


def _faults(text: str) -> list[str]:
    try:
        return [str(fault) for fault in read_yaml(text, "run.yaml")[1]]
    except ConfigError as error:
        return list(error.faults)


LIKE_HELM = [
    "a: {b: 1, c: [y, 2.0, 'y', \"12\"]}\n",
    "y: 1\noff: 2\n12: 3\n0x10: 4\n2026-11-23: 5\n'null': 6\n",
    "base: &base {b: 1, c: 2}\nd: {<<: *base, b: 3}\n",
    "d: {<<: [{a: 1}, {a: 2, b: 3}], c: 4}\n",
    "f: {'<<': 1}\n",
    "a: &x 12\nb: *x\nc: &y [1, *x]\nd: *y\n",
    "a: |\n  12\nb: >-\n  x\n  y\nc: 'it''s'\n",
    "---\na: 1\n...\n",
    "%YAML 1.1\n---\na: y\n",
    "\ufeffa: 1\n",
    "a: 1\r\nb:\r\n  c: y\r\n",
    'a: "\\x41\\u00e9\\U0001F600\\ufeff"\n',
    "a: 'x\n  y'\n",
    "# a comment\na: b#c # another\n",
]


@pytest.mark.parametrize("text", LIKE_HELM)
def test_documents_read_as_helm_reads_them(text: str, read_with_helm: ReadWithHelm) -> None:
    assert _read(text) == read_with_helm(text)


KEYS = st.from_regex(r"[a-z][a-zA-Z0-9]{0,5}", fullmatch=True) | st.sampled_from(
    ["y", "off", "12", "'12'", "null!", "a b"]
)
PLAIN = st.from_regex(r"[-+.0-9a-zA-Z_/]{0,7}[0-9a-zA-Z]", fullmatch=True)


def _as_block(value: Any, indent: str) -> str:
    if isinstance(value, dict):
        return "".join(
            f"\n{indent}{key}:{_as_block(item, indent + '  ')}" for key, item in value.items()
        )
    if isinstance(value, list):
        return "".join(f"\n{indent}-{_as_block(item, indent + '  ')}" for item in value)
    return f" {value}"


TREES = st.dictionaries(
    KEYS,
    st.recursive(
        PLAIN,
        lambda below: (
            st.dictionaries(KEYS, below, min_size=1, max_size=4)
            | st.lists(below, min_size=1, max_size=4)
        ),
        max_leaves=10,
    ),
    min_size=1,
)


@given(TREES)
def test_random_documents_read_as_helm_reads_them(
    read_with_helm: ReadWithHelm, tree: dict[str, Any]
) -> None:
    text = _as_block(tree, "")
    node, faults = read_yaml(text, "run.yaml")
    if not faults:
        assert node is not None
        assert node.plain() == read_with_helm(text)


@given(st.text(alphabet=st.sampled_from("ab1:-#&*!|>'\"%@`{}[],?~ \n\t\\xu0\ud83d\x00\x85.<")))
def test_any_text_is_read_or_refused_in_lines_that_name_the_file(text: str) -> None:
    try:
        _, faults = read_yaml(text, "run.yaml")
    except ConfigError as error:
        lines = list(error.faults)
    else:
        lines = [str(fault) for fault in faults]
    for line in lines:
        assert "(run.yaml" in line
        assert "\n" not in line


REFUSED = {
    "a:\n": "a: got nothing (null), want a value; leave it out to keep the default (run.yaml:1)",
    "b: 1\na:\n\n\n": "a: got nothing (null), want a value; leave it out to keep the default "
    "(run.yaml:2)",
    "a: [1, ~]\n": "a[1]: got nothing (null), want a value; leave it out to keep the default "
    "(run.yaml:1)",
    "b:\n  a: 1\n  a: 2\n": "b.a: given twice, first in line 2; keep one (run.yaml:3)",
    "y: 1\n'true': 2\n": "true: given twice, first in line 1; keep one (run.yaml:2)",
    "a: !!str 12\n": "a: got the tag tag:yaml.org,2002:str; leave it out (run.yaml:1)",
    "a: !x {b: 1}\n": "a: got the tag !x; leave it out (run.yaml:1)",
    "a: .inf\n": "a: got inf, want a finite number (run.yaml:1)",
    "a: .nan\n": "a: got nan, want a finite number (run.yaml:1)",
    "a: 9007199254740993\n": "a: got 9007199254740993, want an integer of at most 2^53, because "
    "Helm rounds larger ones; put quotes around it if it is meant as text (run.yaml:1)",
    'a: "\\ud83d"\n': "a: got '\\ud83d', want whole characters: half of a surrogate pair is none "
    "(run.yaml:1)",
    "x: &x {b: 1}\na: {b: 2, <<: *x}\n": "a.b: given, and again by a later `<<`; write `<<` before "
    "it (run.yaml:2)",
    '"\\ud83d": 1\n': "a key: got '\\ud83d', want whole characters: half of a surrogate pair is "
    "none (run.yaml:1)",
    "a: {<<: 3}\n": "a: `<<` takes a map or a list of maps (run.yaml:1)",
    "a: *q\n": "a: *q names no anchor above it (run.yaml:1)",
    "a: &x [*x]\n": "a[0]: *x would contain itself (run.yaml:1)",
    "1.5: 1\n": "a key must be text; put quotes around '1.5' (run.yaml:1)",
    "~: 1\n": "a key must be text; put quotes around '~' (run.yaml:1)",
    "? [a]\n: 1\n": "a key must be text, not a list, a map or an alias (run.yaml:1)",
    "a: 1\n---\nb: 2\n": "a second document begins; a run file is one, and Helm drops it "
    "(run.yaml:2)",
    "%YAML 1.2\n---\na: y\n": "%YAML: Helm reads YAML 1.1 only; leave the line out (run.yaml:1)",
    "a:\n\tb: 1\n": "not YAML: a tab; write spaces instead (run.yaml:2)",
    "a: b: c\n": "not YAML: a second `: ` in one line, or a key indented differently from its "
    "neighbours; put quotes around text that holds `: ` (run.yaml:1)",
    "a: 1\nb\nc: 1\n": "not YAML: a line without `: `, where a key and its value are wanted "
    "(run.yaml:2)",
    "a: 'x\nb: 1\n": "not YAML: a quote that is never closed (run.yaml:1)",
    "a: 1\n b: 2\n": "not YAML: a second `: ` in one line, or a key indented differently from its "
    "neighbours; put quotes around text that holds `: ` (run.yaml:2)",
    "a:\n  b: 1\n c: 2\n": "not YAML: indented differently from the lines above it (run.yaml:3)",
    "a: @x\n": "not YAML: a value begins with a character that YAML reserves; put quotes around it "
    "(run.yaml:1)",
    "a: 1\nb: \x01\n": "not YAML: a character that may not stand in a text file, '\\x01' "
    "(run.yaml:2)",
    "a: 1\nb: x # \ufeff\n": "not YAML: a byte order mark, an invisible character, inside the "
    'text; delete it, or write it as "\\ufeff" (run.yaml:2)',
    'a: "\\U00110000"\n': "not YAML: an escape that names no character (run.yaml)",
}


@pytest.mark.parametrize("text", REFUSED)
def test_refused_in_one_line(text: str) -> None:
    assert _faults(text) == [REFUSED[text]]


def test_all_faults_of_a_document_are_named_at_once() -> None:
    assert len(_faults("a: ~\nb: .nan\nc: 1\nc: 2\nd: !x y\n")) == 4


def test_a_list_with_a_faulty_item_is_left_out_so_that_no_item_moves_up() -> None:
    node, faults = read_yaml("a: [x, ~, y]\nb: 1\n", "run.yaml")
    assert [fault.path for fault in faults] == [("a", 1)]
    assert node is not None
    assert node.plain() == {"b": 1}


def test_nothing_but_comments_is_empty() -> None:
    for text in ("", "# nothing\n", "---\n", "\n\n"):
        assert read_yaml(text, "run.yaml") == (None, [])


def test_every_key_and_item_knows_its_line() -> None:
    node, _ = read_yaml("a:\n  b: 1\n  c:\n    - x\n    - {d: 2,\n       e: 3}\n", "run.yaml")
    lines = {
        ("a",): 1,
        ("a", "b"): 2,
        ("a", "c"): 3,
        ("a", "c", 0): 4,
        ("a", "c", 1, "d"): 5,
        ("a", "c", 1, "e"): 6,
    }
    assert node is not None
    for path, line in lines.items():
        found = node.find(path)
        assert isinstance(found, Node)
        assert found.origin == Origin("run.yaml", line), path


def test_aliases_that_multiply_are_stopped() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 20)]
    assert "do aliases repeat each other?" in _faults("\n".join(lines))[0]


def test_bottomless_nesting_is_stopped() -> None:
    assert "nested deeper than 50 levels" in _faults("a: " + "[" * 5000)[0]
