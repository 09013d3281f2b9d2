"""Every version the cluster is made of, in one place.

Kubernetes stays at 1.34, the last minor release whose kubelet accepts a cgroup v1 host; Kueue at
0.10, which still serves v1beta1 and ships with the PyTorchJob integration.
"""

from __future__ import annotations

KUBERNETES = "v1.34.4"
ETCD = "v3.6.5"
COREDNS = "v1.14.6"
TRAINING_OPERATOR = "v1.9.4"
KUEUE = "v0.10.0"
KWOK = "v0.7.0"
HELM3 = "v3.21.4"
HELM4 = "v4.3.1"
KUBECONFORM = "v0.7.0"

# The suite of the base image: its Python is 3.11, the oldest that the project supports.
DEBIAN_SUITE = "bookworm"

# Part of the name of what is cached; raise one when its recipe changes while its versions do not.
INIT_RECIPE = 1
HELM3_RECIPE = 2
BASE_IMAGE_RECIPE = 1
