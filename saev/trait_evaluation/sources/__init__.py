"""Where traits come from: settings of a source, whose `table` reads the traits of a recording."""

from saev.trait_evaluation.sources.settings import (
    Columns,
    Cub200,
    ImageTraits,
    Masks,
    Matrix,
    Presence,
    Table,
    TraitSource,
)

__all__ = ["Columns", "Cub200", "ImageTraits", "Masks", "Matrix", "Presence", "Table", "TraitSource"]
