"""k-sparse and image-level probes on several latents together, by scikit-learn."""
