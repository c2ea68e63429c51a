"""The classes of a batch's tokens as the class codes of `saev.probing.counts.entries`, in order of tokens."""

import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from saev.ops import ordering
from saev.probing.counts import segments

Labels = Int[Tensor, " tokens"] | Bool[Tensor, "tokens classes"]


def labelled_tokens(labels: Labels, counted: Bool[Tensor, " tokens"] | None) -> Bool[Tensor, " tokens"]:
    """The tokens with a label >= 0 and, where `counted` is given, that."""
    known = labels >= 0 if labels.ndim == 1 else labels.new_ones(len(labels))
    return known if counted is None else known & counted.to(known.device)


def class_codes(
    labels: Labels, known: Bool[Tensor, " tokens"], n_classes: int
) -> tuple[Int64[Tensor, " slots"], Int64[Tensor, " slots"]]:
    """Token and class code of each class of the known tokens; code 2 * n_classes for a known token without classes.

    ValueError for classes >= n_classes.

    >>> labels = torch.tensor([[True, False], [False, False], [True, True]])
    >>> class_codes(labels, torch.tensor([True, True, True]), 2)  # class 0; none; class 0 and, further, class 1
    (tensor([0, 1, 2, 2]), tensor([0, 4, 0, 3]))
    """
    if labels.ndim == 1:
        token = segments.nonzero(known)
        classes = labels[token].long()
        if len(classes) and int(classes.max()) >= n_classes:
            raise ValueError(
                f"label {int(classes.max())} with n_classes={n_classes}: labels are 0 to {n_classes - 1}, and negative "
                "for tokens to leave out (65535, void on disk, must be made -1)."
            )
        return token, 2 * classes
    if labels.shape[1] != n_classes:
        raise ValueError(f"labels have {labels.shape[1]} classes, these statistics n_classes={n_classes}.")
    token, classes = (labels & known[:, None]).nonzero(as_tuple=True)
    further = torch.zeros_like(token, dtype=torch.bool)
    torch.eq(token[1:], token[:-1], out=further[1:])
    none = segments.nonzero(known & ~labels.any(1))
    token = torch.cat([token, none])
    slots = torch.cat([2 * classes + further, torch.full_like(none, 2 * n_classes)])
    by_token = ordering.order(token)
    return token[by_token], slots[by_token]
