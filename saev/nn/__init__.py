"""Sparse autoencoders: settings, initialisation, losses, schedules, and the bank that trains many at once."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
