"""Which SAEs share one pass over the data."""
