"""What a refusal means, the same whether the API server or Helm tells it."""

from __future__ import annotations

import json

import pytest

from clusterfit.launch.failures import (
    ClusterError,
    DeniedError,
    NoLoginError,
    NotPermittedError,
    explain_answer,
    explain_text,
)

from .api_server import status_body

# As Kubernetes 1.34 words them.
RIGHTS = {
    "RBAC": 'pods is forbidden: User "u" cannot list resource "pods" in API group "" in the '
    'namespace "n"',
    "RBAC of a name": 'jobs.batch "x" is forbidden: User "u" cannot patch resource "jobs" in API '
    'group "batch" in the namespace "n"',
    "a role with more rights than one's own": 'roles.rbac.authorization.k8s.io "x" is forbidden: '
    'user "u" (groups=["system:authenticated"]) is attempting to grant RBAC permissions not '
    'currently held: {APIGroups:[""], Resources:["pods"], Verbs:["get"]}',
}
ADMISSION = {
    "a webhook": 'admission webhook "validate.x" denied the request: no team label',
    "a policy": "jobs.batch \"x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' "
    "denied request: no team label",
    "a LimitRange": 'pods "x" is forbidden: maximum memory usage per Container is 1Gi, but limit '
    "is 2Gi",
    "a quota": 'pods "x" is forbidden: exceeded quota: q, requested: cpu=2, used: cpu=0, limited: '
    "cpu=1",
    "Pod Security": 'pods "x" is forbidden: violates PodSecurity "restricted:latest": privileged',
    "a namespace that ends": 'jobs.batch "x" is forbidden: unable to create new content in '
    "namespace n because it is being terminated",
}
FORBIDDEN = [
    *((message, NotPermittedError, 77) for message in RIGHTS.values()),
    *((message, DeniedError, 65) for message in ADMISSION.values()),
]


@pytest.mark.parametrize(("message", "kind", "exit_code"), FORBIDDEN, ids=[*RIGHTS, *ADMISSION])
def test_rbac_is_about_rights_and_admission_about_the_object_whoever_tells_it(
    message: str, kind: type[ClusterError], exit_code: int
) -> None:
    body = json.dumps(status_body(message, "Forbidden")).encode()
    for error in (
        explain_answer(403, body, "create jobs.batch x in namespace n"),
        explain_text(message, "release x: not installed"),
    ):
        assert type(error) is kind
        assert error.exit_code == exit_code
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "asked", ['list resource "pods" in API group "" in the namespace "n"', 'get path "/api"']
)
def test_who_is_refused_as_nobody_has_to_log_in(asked: str) -> None:
    """A server that lets requests without credentials in does not answer 401."""
    message = f'forbidden: User "system:anonymous" cannot {asked}'
    what = "list pods in namespace n"
    body = json.dumps(status_body(message, "Forbidden")).encode()
    refused = explain_answer(401, b"", what)
    for error in (explain_answer(403, body, what), explain_text(message, what)):
        assert type(error) is NoLoginError
        assert str(error) == str(refused).replace("401", "403")
        assert error.exit_code == refused.exit_code == 77


@pytest.mark.parametrize("body", [b"<html>403 Forbidden</html>", b"", b"access is forbidden: ask"])
def test_a_403_of_something_in_between_is_about_rights(body: bytes) -> None:
    error = explain_answer(403, body, "list pods in namespace n")
    assert type(error) is NotPermittedError
    assert str(error) == f"list pods in namespace n: refused (403): {body.decode()}"


@pytest.mark.parametrize("status", [400, 403, 422])
def test_a_refusal_by_admission_is_one_whatever_status_it_has(status: int) -> None:
    message = ADMISSION["a webhook"]
    body = json.dumps(status_body(message)).encode()
    error = explain_answer(status, body, "create pods x in namespace n")
    assert type(error) is DeniedError
    assert str(error) == f"create pods x in namespace n: {message}"


def test_an_invalid_field_is_refused_also_where_helm_tells_it() -> None:
    message = 'Job.batch "x" is invalid: spec.parallelism: must be greater than or equal to 0'
    error = explain_text(message, "release x: not installed")
    assert type(error) is DeniedError
    assert str(error) == f"release x: not installed: {message}"


def test_what_helm_says_of_no_refusal_is_the_clusters_failure() -> None:
    error = explain_text("connection refused", "release x: not installed")
    assert type(error) is ClusterError
