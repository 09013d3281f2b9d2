"""Training by epochs, with exact resume."""
