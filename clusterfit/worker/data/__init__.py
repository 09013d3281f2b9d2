"""Images on their way into a network."""
