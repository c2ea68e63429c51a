"""1-D logistic regressions of all (latent, class) pairs, fitted to their counts."""
