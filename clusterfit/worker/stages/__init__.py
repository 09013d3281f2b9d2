"""One program per stage, each read from top to bottom."""
