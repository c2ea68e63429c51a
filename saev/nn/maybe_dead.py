"""How a step knows which latents may be dead, without waiting for the device."""

import torch
from jaxtyping import Int64
from torch import Tensor


class MaybeDead:
    """The latents that may be dead: on a CPU the dead ones, on a GPU a few more, so that no step waits to know them.

    A latent that was tokens_since_fired for s tokens is not dead before it has seen dead_tokens - s more. So whoever does not come close
    when the device is asked can be left alone until that many tokens were seen: one step in a quarter of dead_tokens asks, and
    the next one takes the answer, while the device is still busy with what was queued behind the question. When, depends on
    tokens alone, and what is known belongs to a checkpoint, because whom a step looks at decides how its sums are rounded.
    """

    def __init__(self, dead_tokens: int):
        self.dead_tokens = dead_tokens
        self.latents: Int64[Tensor, " n"] | None = None
        self.left = -1  # tokens for which they are known
        self.question: Question | None = None

    def after(self, tokens_since_fired: Int64[Tensor, " d_sae"], tokens: int) -> Int64[Tensor, " n"]:
        """Those for a step on so many tokens that follows on `silent`."""
        ahead = horizon(tokens_since_fired.device, self.dead_tokens)
        if not ahead:
            self.know(None)
            return (tokens_since_fired >= self.dead_tokens).nonzero().squeeze(1)
        if self.question is None and self.left < 0:  # the first step: it waits
            self.question = Question(tokens_since_fired, self.dead_tokens - ahead)
        self._settle(ahead)
        assert self.latents is not None
        self.latents = self.latents.to(
            tokens_since_fired.device
        )  # a checkpoint is read before the module goes to its device
        self.left -= tokens
        if self.left < 0:
            self.question = Question(tokens_since_fired, self.dead_tokens - ahead - tokens)
        return self.latents

    def _settle(self, ahead: int) -> None:
        if self.question is not None:
            self.latents, self.left, self.question = self.question.latents(), ahead, None

    def known(self) -> tuple[list[int], int, int] | None:
        """What is known beyond the last step: the latents, for how many tokens, and what dead_tokens were."""
        if self.question is not None:
            self._settle(horizon(self.question.device, self.dead_tokens))
        return None if self.latents is None else (self.latents.tolist(), self.left, self.dead_tokens)

    def know(self, known: tuple[list[int], int, int] | None) -> None:
        """Take over what was known, unless it was about other dead_tokens."""
        self.latents, self.left, self.question = None, -1, None
        if known is not None and known[2] == self.dead_tokens:
            self.latents, self.left = torch.tensor(known[0], dtype=torch.int64), known[1]


class Question:
    """Which latents have been tokens_since_fired for so many tokens? Their number is on its way to the host while the host goes on."""

    def __init__(self, tokens_since_fired: Int64[Tensor, " d_sae"], tokens: int):
        self.device, self.close = tokens_since_fired.device, (tokens_since_fired >= tokens).byte()
        self.count = self.close.sum().to("cpu", non_blocking=tokens_since_fired.is_cuda)  # then into page-locked memory
        self.arrived = torch.cuda.Event() if tokens_since_fired.is_cuda else None
        if self.arrived is not None:
            self.arrived.record(torch.cuda.current_stream(tokens_since_fired.device))

    def latents(self) -> Int64[Tensor, " n"]:
        """Them, in order. Only the number is waited for; what was queued after the question is not."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.close.argsort(stable=True, descending=True)[: int(self.count)]


def horizon(device: torch.device, dead_tokens: int) -> int:
    """For how many tokens to ask in advance: the longer, the more latents there are that only come close."""
    return 0 if device.type == "cpu" else max(1, dead_tokens // 4)
