"""The `platform` section of the run file: what Kubernetes needs, which never enters a container."""
