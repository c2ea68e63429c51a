"""The latents that may be dead, known on the host without synchronising the device at every step."""

import torch
from jaxtyping import Int64
from torch import Tensor


class MaybeDead:
    """The latents that may be dead: on a CPU the dead ones, on a GPU a superset, so that steps need not synchronise.

    A latent that has not fired for s tokens cannot be dead before dead_tokens - s more. So latents far from the threshold need
    no check until then: one step per quarter of dead_tokens queries the device, and the next step reads the answer, while the
    device still runs what was queued after the query. Query times depend on token counts alone, and the latents are part of
    the checkpoint, because they determine how a step's sums are rounded.
    """

    def __init__(self, dead_tokens: int):
        self.dead_tokens = dead_tokens
        self.latents: Int64[Tensor, " n"] | None = None
        self.left = -1  # tokens for which `latents` stays valid
        self.question: Question | None = None

    def after(self, tokens_since_fired: Int64[Tensor, " d_sae"], tokens: int) -> Int64[Tensor, " n"]:
        """The latents that may be dead in a step of `tokens` tokens, given the counts before it."""
        ahead = horizon(tokens_since_fired.device, self.dead_tokens)
        if not ahead:
            self.know(None)
            return (tokens_since_fired >= self.dead_tokens).nonzero().squeeze(1)
        if self.question is None and self.left < 0:  # the first step synchronises
            self.question = Question(tokens_since_fired, self.dead_tokens - ahead)
        self._settle(ahead)
        assert self.latents is not None
        # a checkpoint is loaded before the module moves to its device
        self.latents = self.latents.to(tokens_since_fired.device)
        self.left -= tokens
        if self.left < 0:
            self.question = Question(tokens_since_fired, self.dead_tokens - ahead - tokens)
        return self.latents

    def _settle(self, ahead: int) -> None:
        if self.question is not None:
            self.latents, self.left, self.question = self.question.latents(), ahead, None

    def known(self) -> tuple[list[int], int, int] | None:
        """State for a checkpoint: (latents, tokens for which they stay valid, dead_tokens)."""
        if self.question is not None:
            self._settle(horizon(self.question.device, self.dead_tokens))
        return None if self.latents is None else (self.latents.tolist(), self.left, self.dead_tokens)

    def know(self, known: tuple[list[int], int, int] | None) -> None:
        """Restore the state of `known`, unless dead_tokens differ."""
        self.latents, self.left, self.question = None, -1, None
        if known is not None and known[2] == self.dead_tokens:
            self.latents, self.left = torch.tensor(known[0], dtype=torch.int64), known[1]


class Question:
    """An asynchronous query for the latents that have not fired for `tokens` tokens; their number is copied to the host."""

    def __init__(self, tokens_since_fired: Int64[Tensor, " d_sae"], tokens: int):
        self.device, self.close = tokens_since_fired.device, (tokens_since_fired >= tokens).byte()
        # into page-locked memory if CUDA
        self.count = self.close.sum().to("cpu", non_blocking=tokens_since_fired.is_cuda)
        self.arrived = torch.cuda.Event() if tokens_since_fired.is_cuda else None
        if self.arrived is not None:
            self.arrived.record(torch.cuda.current_stream(tokens_since_fired.device))

    def latents(self) -> Int64[Tensor, " n"]:
        """The latents, ascending. Waits for the query, not for what was queued after it."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.close.argsort(stable=True, descending=True)[: int(self.count)]


def horizon(device: torch.device, dead_tokens: int) -> int:
    """Tokens for which a query looks ahead: the more, the larger the superset. 0: query at every step."""
    return 0 if device.type == "cpu" else max(1, dead_tokens // 4)
