"""The only place that knows Helm: a `helm` on PATH (3 or 4), or the PyPI package helm-python-sdk.

Values go in as one complete document, because Helm's own `--set` and merging guess types and drop
keys that are overridden with null.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any, Protocol

from clusterfit.errors import ConfigError, RetryableError
from clusterfit.launch.access import Access
from clusterfit.launch.charts import OLDEST_KUBERNETES

Values = dict[str, Any]

_OPENING = re.compile(r"^((Error|INSTALLATION FAILED): ?|level=ERROR msg=)+")
_WARNING = re.compile(r"(WARNING: |(time=\S+ )?level=WARN )")
"""How Helm 3 and 4 begin what they say before the error: who may read the kubeconfig, and such."""
_TEMPLATE_FAILURE = re.compile(r"execution error at \([^)]*\): (?P<said>.*)$", re.M)
_TAKEN = re.compile(r"a name that is still in use|release: already exists")
"""What Helm says where it looks first, and where another install was faster by a moment."""
_UNPRINTABLE = re.compile(r"[^\n -~]")


class Helm(Protocol):
    """What clusterfit needs of Helm."""

    name: str
    """How it is called in messages."""

    def render(self, chart: Path, release: str, namespace: str, values: Values) -> str:
        """Return the release's objects as YAML, checked against the chart's schema, offline."""

    def install(self, chart: Path, release: str, access: Access, values: Values) -> None:
        """Create a release. It does not wait for its pods."""

    def uninstall(self, release: str, access: Access) -> bool:
        """Remove a release and say whether there was one."""

    def find_status(self, release: str, access: Access) -> str:
        """Return Helm's word for where a release stands: `deployed`, `failed`; empty: no such."""


class HelmProgram:
    """A `helm` of any supported version."""

    def __init__(self, program: str) -> None:
        """Use the program at this path."""
        self.name = program

    def render(self, chart: Path, release: str, namespace: str, values: Values) -> str:
        """See `Helm`."""
        arguments = ["template", release, str(chart), "--values=-", f"--namespace={namespace}"]
        # Offline, Helm 3 takes the version that it was built for: 1.20 after a plain `go install`.
        arguments.append(f"--kube-version={OLDEST_KUBERNETES}")
        return self._run(arguments, stdin=write_values(values))

    def install(self, chart: Path, release: str, access: Access, values: Values) -> None:
        """See `Helm`."""
        arguments = [
            "install",
            release,
            str(chart),
            "--values=-",
            *_options(access, access.used_context),
        ]
        self._run(arguments, stdin=write_values(values))

    def uninstall(self, release: str, access: Access) -> bool:
        """See `Helm`."""
        try:
            self._run(["uninstall", release, *_options(access, access.used_context)])
        except HelmError as error:
            if "not found" in str(error):
                return False
            raise
        return True

    def find_status(self, release: str, access: Access) -> str:
        """See `Helm`."""
        try:
            said = self._run(
                ["status", release, "--output=json", *_options(access, access.used_context)]
            )
        except HelmError as error:
            if "not found" in str(error):
                return ""
            raise
        return str(json.loads(said)["info"]["status"])

    def _run(self, arguments: list[str], stdin: str = "") -> str:
        done = subprocess.run(
            [self.name, *arguments], input=stdin, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise read_error(done.stderr or done.stdout)
        return done.stdout


class HelmLibrary:
    """Helm 4 inside Python, from the extra `clusterfit[helm]`."""

    name = "helm-python-sdk"

    def render(self, chart: Path, release: str, namespace: str, values: Values) -> str:
        """See `Helm`."""
        import helm_python

        # A dry install checks kubeVersion and that the output is YAML, which its render does not.
        config = helm_python.Config(storage_driver="memory", namespace=namespace)
        with config, self._explained():
            done = config.install(str(chart), release, values, dry_run="client")
        return str(done["manifest"])

    def install(self, chart: Path, release: str, access: Access, values: Values) -> None:
        """See `Helm`."""
        with self._connect(access) as config, self._explained():
            config.install(str(chart), release, values)

    def uninstall(self, release: str, access: Access) -> bool:
        """See `Helm`."""
        import helm_python

        with self._connect(access) as config, self._explained():
            try:
                config.uninstall(release)
            except helm_python.HelmNotFoundError:
                return False
        return True

    def find_status(self, release: str, access: Access) -> str:
        """See `Helm`."""
        import helm_python

        with self._connect(access) as config, self._explained():
            try:
                found = config.status(release)
            except helm_python.HelmNotFoundError:
                return ""
        return str(found["status"])

    def _connect(self, access: Access) -> Any:
        import helm_python

        # The library knows of the environment only what was set before it was loaded.
        kubeconfig = access.kubeconfig or os.environ.get("KUBECONFIG", "")
        return helm_python.Config(
            kubeconfig_path=None if os.pathsep in kubeconfig else kubeconfig or None,
            kube_context=access.used_context or None,
            namespace=access.namespace,
        )

    def _explained(self) -> _Explained:
        return _Explained()


class _Explained:
    """Turns the library's errors into ours."""

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Raise ours instead of the library's."""
        import helm_python

        if isinstance(error, helm_python.HelmNotFoundError):
            return
        if isinstance(error, helm_python.HelmError):
            raise read_error(str(error)) from None


class HelmError(RetryableError):
    """Helm refused or failed; the message is what it said, without what it says of itself."""

    exit_code = 1


class NameTakenError(HelmError):
    """A release of that name exists, so that nothing was installed."""


def find_helm() -> Helm:
    """Return the user's helm, or the bundled one.

    Raises:
        ConfigError: There is neither.
    """
    program = shutil.which("helm")
    if program:
        return HelmProgram(program)
    if importlib.util.find_spec("helm_python"):
        return HelmLibrary()
    raise ConfigError(
        "helm: not found on PATH; install Helm 3 or 4, or `pip install 'clusterfit[helm]'`, which "
        "brings one"
    )


def format_command(access: Access, *words: str) -> str:
    """Return `helm WORDS` at the place that our own command was led to, for a person to copy."""
    return shlex.join(["helm", *words, *_options(access, access.context)])


def write_values(values: Values) -> str:
    """Return values as JSON that Helm's YAML reader reads back as they were.

    It takes surrogate pairs apart and refuses raw control characters, so everything unprintable is
    escaped as YAML does it.
    """
    return _UNPRINTABLE.sub(_escape, json.dumps(values, ensure_ascii=False))


def read_error(said: str) -> HelmError:
    """Return the error that Helm's message means."""
    text = explain(said)
    return NameTakenError(text) if _TAKEN.search(text) else HelmError(text)


def explain(said: str) -> str:
    """Return the part of Helm's message that is meant for a person."""
    failures = list(_TEMPLATE_FAILURE.finditer(said))
    if failures:
        return failures[-1]["said"].strip()
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if not _WARNING.match(line)]
    return "\n".join(_OPENING.sub("", line) for line in errors or lines)


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    if character.isprintable():
        return character
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"


def _options(access: Access, context: str) -> list[str]:
    options = [f"--namespace={access.namespace}"]
    if context:
        options.append(f"--kube-context={context}")
    if access.kubeconfig:
        options.append(f"--kubeconfig={access.kubeconfig}")
    return options
