"""A real Kubernetes cluster on one plain Linux machine, for tests: no Docker, no virtual machine.

The node is a *machine*: a process tree in its own pid, mount and network namespaces. etcd, the API server, the
kubelet, containerd and every pod live in it. What they mount, listen on and write to iptables exists only there, so
that ending the machine's first process takes all of it away, whatever state it is in.

Modules, from the ground up:

    versions      every pinned version
    paths         the cache folder (kept) and the state folder (one running cluster)
    preflight     can this machine run it, and which Debian packages are missing
    commands      run a command, or fail with its words; wait for a condition
    programs      build the Go programs from their modules
    images        container images: pause, operators, the base image, the project's own
    machine       the namespaces: create, enter, destroy
    components    one long-running program in the machine: start, kill, restart
    controlplane  etcd, API server, controller manager, scheduler
    node          containerd, kubelet, kube-proxy, the pod network
    addons        CoreDNS, the training operator, Kueue
    storage       StorageClasses for shared volumes, and their provisioner
    gpus          GPUs that are only counted, and nodes that are only pretended
    cluster       all of it, in order: up, attach, down
    __main__      the command line
"""
