"""Scores of images by the prototypes of dictionaries, baselines and other methods, and the ranking that they give."""
