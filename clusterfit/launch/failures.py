"""What an API server may answer instead of doing what was asked, each as one line with its cure.

::

    ClusterError            69  the cluster is not there, or does not answer as it should
    ├── NotPermittedError   77  it refuses these credentials, or what they ask for
    │   └── NoLoginError    77  there are no credentials that it could take or refuse
    ├── NotFoundError        3  the run, release or object does not exist
    ├── AlreadyExistsError  73  something of that name exists
    └── RefusedError        65  an object is not taken: a wrong field, a change in between
        └── DeniedError     65  by admission: quota, Pod Security, a policy, a webhook
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from clusterfit.errors import ClusterfitError

_FORBIDDEN: Final = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>\S+) resource "(?P<resource>[^"]*)"'
    r'(?: in API group "(?P<group>[^"]*)")?(?:.* in the namespace "(?P<namespace>[^"]*)")?'
)
_NOBODY: Final = 'User "system:anonymous" cannot '
"""Said where no credentials came along, by a server that lets requests without any in."""
_ESCALATION: Final = "attempting to grant RBAC permissions not currently held"
"""Said of a Role that allows more than its maker may: RBAC's as well."""
_ADMISSION: Final = re.compile(
    r'admission webhook "[^"]*" denied the request|"[^"]*" is (?:forbidden|invalid): '
)
"""Said by admission, once neither of the above is: RBAC's words may begin like the second form."""


class ClusterError(ClusterfitError):
    """The cluster cannot be reached, or answers in a way that nothing here can mend."""

    exit_code = 69


class NotPermittedError(ClusterError):
    """The credentials are refused, or do not allow it."""

    exit_code = 77


class NoLoginError(NotPermittedError):
    """There are no credentials: none came along, or the kubeconfig's login brought none."""


class NotFoundError(ClusterError):
    """What was asked for does not exist."""

    exit_code = 3


class NoOperatorError(ClusterError):
    """The cluster has no PyTorchJobs."""


class AlreadyExistsError(ClusterError):
    """An object of that name exists."""

    exit_code = 73


class RefusedError(ClusterError):
    """An object is not taken as it is: an invalid field, or somebody has changed it meanwhile."""

    exit_code = 65


class DeniedError(RefusedError):
    """Admission refuses an object: a quota, Pod Security, a policy, a webhook."""


def explain_answer(status: int, body: bytes, what: str) -> ClusterError:
    """Return the error that an answer of 400 and above means.

    Args:
        status: The HTTP status.
        body: The answer: Kubernetes' Status object, or text of something in between.
        what: What was tried, for the message: `list pods in namespace team`.
    """
    message, reason = _read_status(body)
    if status == 401:
        return NotPermittedError(_describe_login(status, what))
    if status == 403:
        return _explain_refusal(message, what) or NotPermittedError(
            f"{what}: refused (403): {message}"
        )
    if status == 404 and reason != "NotFound" and "kubeflow.org" in what:
        return NoOperatorError(
            f"{what}: the cluster has no PyTorchJob of kubeflow.org/v1; an administrator must "
            "install the Kubeflow training operator, v1.8 or v1.9"
        )
    if status == 404:
        namespace = re.search(r'namespaces "([^"]+)" not found', message)
        if namespace:
            return NotFoundError(
                f"namespace {namespace[1]}: not found; create it, or name another with -n"
            )
        return NotFoundError(f"{what}: {message or 'not found'}")
    if status == 409 and reason == "AlreadyExists":
        return AlreadyExistsError(f"{what}: {message}")
    if status in (400, 409, 422):
        return _explain_refusal(message, what) or RefusedError(f"{what}: {message}")
    if status == 429:
        return ClusterError(f"{what}: the cluster is overloaded (429); try again in a minute")
    return ClusterError(f"{what}: the cluster answered {status}: {message or 'nothing more'}")


def explain_text(said: str, what: str) -> ClusterError:
    """Return the error that a tool's words mean, which repeat what the API server answered."""
    return _explain_refusal(said, what) or ClusterError(f"{what}: {said}")


def _describe_login(status: int, what: str) -> str:
    return (
        f"{what}: the cluster refuses your credentials ({status}); log in again, or check "
        "--kubeconfig and --context"
    )


def _explain_refusal(message: str, what: str) -> ClusterError | None:
    """Return the error of what RBAC or admission refuses; None where neither says so."""
    if _NOBODY in message:
        return NoLoginError(_describe_login(403, what))
    forbidden = _FORBIDDEN.search(message)
    if forbidden:
        group = f".{forbidden['group']}" if forbidden["group"] else ""
        place = f" in namespace {forbidden['namespace']}" if forbidden["namespace"] else ""
        return NotPermittedError(
            f"no permission: {forbidden['user']} may not {forbidden['verb']} "
            f"{forbidden['resource']}{group}{place}; ask an administrator for that verb"
        )
    if _ESCALATION in message:
        return NotPermittedError(f"{what}: {message}")
    if "violates PodSecurity" in message:
        return DeniedError(f"{what}: Pod Security refuses it: {message.partition('violates ')[2]}")
    if "exceeded quota" in message:
        return DeniedError(f"{what}: {message[message.index('exceeded quota') :]}")
    return DeniedError(f"{what}: {message}") if _ADMISSION.search(message) else None


def _read_status(body: bytes) -> tuple[str, str]:
    """Return the message and the reason of Kubernetes' Status object, or the text and nothing."""
    try:
        status: Any = json.loads(body)
        return str(status["message"]), str(status.get("reason", ""))
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace").strip()[:300], ""
