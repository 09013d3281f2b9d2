"""How good frozen networks are: by logistic regression, neighbours, trained heads and SVMs."""
