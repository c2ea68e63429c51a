"""Library functions that need the callbacks and datamodules of the clone: train, fit, traits, linear probes."""

import importlib.abc
import sys


class _ExplainMissingClone(importlib.abc.MetaPathFinder):
    """Explains why `callbacks` and `datamodules` are missing; asked only if no other finder knows them."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname in ("callbacks", "datamodules"):
            raise ModuleNotFoundError(
                f"saev.recipes (train, fit, traits, linear probes) needs the clone of the repository (callbacks, datamodules), and "
                f"{fullname} is not installed: clone it and run `uv sync`, or `pip install -e .`, in it.",
                name=fullname,
            )


sys.meta_path.append(_ExplainMissingClone())
