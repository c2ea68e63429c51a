"""1-D logistic probes of all pairs from their statistics."""
