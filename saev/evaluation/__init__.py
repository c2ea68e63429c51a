"""Dictionaries measured on recorded activations and spliced back into their backbone."""
