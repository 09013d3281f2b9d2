"""The run file: typed tree, loading with provenance, derived sizes and schedules. Torch-free."""
