"""Statistics of all (latent, class) pairs from one pass over codes."""
