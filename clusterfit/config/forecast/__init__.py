"""What a run will do and need, before it does it: batches, steps, rates, storage, memory, pods.

The worker computes the same schedule when it knows its world size, and writes files of these sizes;
tests hold the two together. A figure that cannot be known beforehand has no value, and says why.
"""
