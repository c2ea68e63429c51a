"""A bench of dictionaries: one row per dictionary, every measure of all its latents beside its null and its interval."""
