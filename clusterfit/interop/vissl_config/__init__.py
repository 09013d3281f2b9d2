"""VISSL's configuration files -> run files.

`source` composes a file with its overlays and overrides, `reading` hands out its keys and remembers
what became of each, the modules named after parts of VISSL's tree translate those parts, and
`conversion` puts a run file together. No torch, no numpy.
"""
