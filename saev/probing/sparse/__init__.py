"""Probes on several latents together, of tokens or of images."""
