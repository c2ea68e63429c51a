"""Kernels: each has a plain reference, a fast path, and one function that the rest of the library calls."""
