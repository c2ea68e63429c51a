"""The images that excite each latent most, kept while pairs stream by."""

import torch
from jaxtyping import Float, Float32, Int, Int64
from torch import Tensor

NOBODY = -1  # in `example` and `token`: fewer images than asked for excite the latent


class TopExamples:
    """Per latent the n images with the largest code above 0 on one of their tokens, best first.

    Of equal values the one with the lower image number comes first, and within an image the token seen first: the
    result does not depend on how tokens were split into batches, as long as an image's come in order.
    """

    value: Float32[Tensor, "n_latents n"]
    example: Int64[Tensor, "n_latents n"]
    token: Int64[Tensor, "n_latents n"]

    def __init__(self, n_latents: int, n: int, device: torch.device | str = "cpu"):
        self.n = n
        self.value = torch.zeros(n_latents, n, device=device)
        self.example = torch.full((n_latents, n), NOBODY, device=device)
        self.token = self.example.clone()

    def update(
        self,
        latent: Int[Tensor, " pairs"],
        value: Float[Tensor, " pairs"],
        example: Int[Tensor, " pairs"],
        token: Int[Tensor, " pairs"],
    ) -> None:
        """Add pairs of latent and value, with the image and the number of the token that each is of."""
        # After the first batches few pairs beat what is kept, and all that follows is about those alone.
        better = value > self.value[latent.long(), -1]
        touched, latent = latent[better].long().unique(return_inverse=True)
        value, example, token = value[better].float(), example[better].long(), token[better].long()
        kept = self.example[touched] != NOBODY
        places = torch.arange(len(touched), device=value.device).unsqueeze(1).expand_as(kept)
        latent = torch.cat([places[kept], latent])
        value = torch.cat([self.value[touched][kept], value])
        example = torch.cat([self.example[touched][kept], example])
        token = torch.cat([self.token[touched][kept], token])
        order, rank = ranked(latent, value, example)
        chosen = order[rank < self.n]
        at = touched[latent[chosen]], rank[rank < self.n]
        self.value[at], self.example[at], self.token[at] = value[chosen], example[chosen], token[chosen]

    def merge(self, other: "TopExamples") -> None:
        """Add what was found on other images."""
        kept = other.example != NOBODY
        latent = torch.arange(len(kept), device=kept.device).unsqueeze(1).expand_as(kept)[kept]
        self.update(latent, other.value[kept], other.example[kept], other.token[kept])


def ranked(
    latent: Int64[Tensor, " pairs"], value: Float32[Tensor, " pairs"], example: Int64[Tensor, " pairs"]
) -> tuple[Int64[Tensor, " best"], Int64[Tensor, " best"]]:
    """The best pair of each latent and image: its place, by latent and descending value; and its rank in its latent.

    >>> ranked(torch.tensor([5, 5, 5]), torch.tensor([1.0, 2.0, 3.0]), torch.tensor([7, 7, 8]))
    (tensor([2, 1]), tensor([0, 1]))
    """
    order = value.sort(descending=True, stable=True).indices  # sorts by several keys, from the last to the first
    order = order[example[order].sort(stable=True).indices]
    order = order[latent[order].sort(stable=True).indices]
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = (latent[order].diff() != 0) | (example[order].diff() != 0)
    order = order[first]  # by latent and image: ties of value will stay in this order
    order = order[value[order].sort(descending=True, stable=True).indices]
    order = order[latent[order].sort(stable=True).indices]
    by_latent = latent[order]
    places = torch.arange(len(order), device=order.device)
    return order, places - torch.searchsorted(by_latent, by_latent)
