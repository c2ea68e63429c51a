"""Dictionaries that are not trained by gradients: k-means, PCA, random vectors, semi-NMF; fitted in passes over the stream.

A class for the settings of each (no torch); `fitter` and `baseline` have the interfaces of a new one.
"""

from saev.baselines.settings import PCA, BaselineSettings, KMeans, RandomVectors, SemiNMF

__all__ = ["PCA", "BaselineSettings", "KMeans", "RandomVectors", "SemiNMF"]
