"""In the container: the entry, and one short program for each stage."""
