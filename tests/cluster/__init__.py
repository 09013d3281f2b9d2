"""A real Kubernetes cluster on one plain Linux computer, for tests: no Docker, no virtual machine.

The node is a *machine*: a process tree in its own pid, mount and network namespaces. etcd, the API
server, the kubelet, containerd and every pod live in it. What they mount, listen on and write to
iptables exists only there, so that ending the machine's first process takes all of it away,
whatever state it is in.

Modules, from the ground up:

    versions      every pinned version
    paths         the cache folder (kept) and the state folder (one running cluster)
    commands      run a command, or fail with its words; wait for a condition; kubectl
    processes     processes as /proc shows them
    cgroups       the cgroup of all pods
    network       addresses, and the pair of interfaces between computer and machine
    preflight     can this computer run it, and which Debian packages are missing
    programs      build the Go programs from their modules
    images        container images: pause, operators, the base image
    machine       the namespaces: create, enter, destroy
    components    one long-running program in the machine: start, kill, start again
    controlplane  etcd, API server, controller manager, scheduler
    containerd    the container runtime and the pods' network
    node          kubelet, kube-proxy
    imagestore    buildah's store, and how an image travels to containerd
    project       the project's image: build it, bring it to containerd
    addons        CoreDNS and the training operator
    kueue         Kueue, with or without its PyTorchJob integration
    storage       StorageClasses for shared volumes, and their provisioner
    gpus          GPUs that are only counted, and nodes that are only pretended
    cluster       a running cluster and control over its parts
    lifecycle     all of it, in order: up, attach, down
    __main__      the command line

and for the tests that run on it:

    manifests     small objects that pass `restricted`, and what their status says
    namespace     a namespace for one test
"""
