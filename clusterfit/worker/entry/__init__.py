"""The first process of a pod: it prepares a stage, starts its ranks and answers for them."""
