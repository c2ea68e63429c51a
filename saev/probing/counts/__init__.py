"""The counts of all (latent, value bin, class), accumulated in one pass over codes and labels."""
