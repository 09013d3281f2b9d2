"""k-means: rows, engines behind one small interface, and the exact assignment that ends it."""
