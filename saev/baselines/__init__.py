"""Dictionaries that no gradient has trained: k-means, PCA, random vectors, semi-NMF; fitted in passes over the stream."""
