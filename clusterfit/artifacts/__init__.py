"""The run directory: names, atomic writes, manifests, fingerprints, one live writer. No torch."""
