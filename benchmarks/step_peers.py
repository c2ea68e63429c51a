"""One training step of other SAE libraries, by their own classes: what ours is measured beside.

They are the dependency group `peers` (`uv sync --group peers`; overcomplete wants Python below 3.13), each imported when it is
asked for. A step is all that the library's trainer does with a batch that lies on the device: forward pass, loss, backward
pass, clipping or normalisation, Adam as its trainer builds it (not `fused`), counts of what fired. Parameters are float32, the
learning rate is constant, and no latent is counted as dead, so there is no auxiliary loss. Beyond that a step is:

- eai-sparsify: the body of `Trainer.fit`'s loop, which is no function of its own. Decoder to unit norm; the loss is FVU, read
  every step; the gradient along the atoms is removed. The encoder's gradient is sparse (`FusedEncoder`). Decoding is
  `embedding_bag` on a CPU; on a GPU it is the library's Triton kernel, and its forward pass is under bfloat16 autocast.
  Adam is one of its three optimisers, schedule-free signum its default.
- sae-lens: `SAETrainer.step`. Squared error summed over d_model; the gradient's norm clipped at 1; pre-activations are scaled by
  the atoms' norms instead of normalising these. `sparse` is the same with the codes in a COO tensor and without that scaling,
  whose backward pass fails on such a tensor.
- overcomplete: `train_sae` on one batch. Squared error averaged over d_model; the dictionary is normalised twice, for decoding
  and for the loss; the gradient's norm clipped at 1; no bias in the decoder. Monitoring, which adds R² and L0, is off.

    >>> peer = PEERS["topk"]["eai-sparsify"](Size(d_model=384, d_sae=3072, k=32))
    >>> peer.step(x)
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from matplotlib import cm, pyplot
from torch import Tensor

ENDS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)  # Matryoshka prefixes, as fractions of d_sae
L1 = 1e-3  # per unit of squared error summed over d_model; what a step costs does not depend on it


class Size(NamedTuple):
    """What a peer is built from; `k` is the mean over the batch where that is what an architecture fixes."""

    d_model: int
    d_sae: int
    k: int
    lr: float = 3e-4
    device: str = "cpu"


class Peer(NamedTuple):
    """A new autoencoder of another library: one training step on a batch, and what it makes of a batch."""

    step: Callable[[Float[Tensor, "batch d_model"]], None]
    reconstruct: Callable[[Float[Tensor, "batch d_model"]], Float[Tensor, "batch d_model"]]


def sparsify(size: Size) -> Peer:
    """TopK of eai-sparsify, which has no other of our architectures."""
    on_gpu = torch.device(size.device).type == "cuda"
    if not on_gpu:
        # read when it is imported; without it the decoder is Triton's wherever that is installed, and fails on a CPU
        os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
    from sparsify import SparseCoder, SparseCoderConfig, sparse_coder

    if on_gpu == (sparse_coder.decoder_impl.__name__ == "eager_decode"):
        raise ValueError(f"device={size.device}: eai-sparsify chose its decoder for another one when it was imported")
    sae = SparseCoder(size.d_model, SparseCoderConfig(num_latents=size.d_sae, k=size.k), size.device, torch.float32)
    optimizer = torch.optim.Adam(sae.parameters(), lr=size.lr)
    did_fire = torch.zeros(size.d_sae, device=size.device, dtype=torch.bool)
    tokens_since_fired = torch.zeros(size.d_sae, device=size.device, dtype=torch.long)

    def step(x: Tensor) -> None:
        sae.set_decoder_norm_to_unit_norm()
        out = sae(x=x, y=x, dead_mask=None, total_variance=(x - x.mean(0)).pow(2).sum())
        did_fire[out.latent_indices.flatten()] = True
        float(out.fvu.detach())  # for its running mean
        (out.fvu + 0.0 * out.auxk_loss + out.multi_topk_fvu / 8).backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        tokens_since_fired.add_(len(x))
        tokens_since_fired[did_fire] = 0
        did_fire.zero_()

    return Peer(step, lambda x: sae(x).sae_out)


def sae_lens(architecture: str, size: Size, **config: Any) -> Peer:
    """An architecture of sae-lens by the library's name, with `config` on top of its defaults."""
    from sae_lens import SAETrainer, TrainingSAE
    from sae_lens.config import SAETrainerConfig

    sizes = {"d_in": size.d_model, "d_sae": size.d_sae, "k": size.k, "device": size.device}
    sae = TrainingSAE.from_dict({"architecture": architecture, **sizes, **config})
    settings = SAETrainerConfig(
        lr=size.lr, lr_end=size.lr, device=size.device, dead_feature_window=2**40,
        total_training_samples=2**40, train_batch_size_samples=1,  # neither changes a step
    )  # fmt: skip
    trainer = SAETrainer(settings, sae, data_provider=iter(()))

    def step(x: Tensor) -> None:
        trainer.step(x)
        trainer.n_training_steps += 1

    return Peer(step, sae)


def sae_lens_matryoshka(size: Size) -> Peer:
    return sae_lens("matryoshka_batchtopk", size, matryoshka_widths=[int(share * size.d_sae) for share in ENDS])


def overcomplete(kind: str, size: Size) -> Peer:
    """`kind` is topk, batchtopk or relu_l1; there is no Matryoshka."""
    # overcomplete 0.3.0 calls cm.get_cmap when it is imported; from matplotlib 3.11 on that is in pyplot alone
    vars(cm).setdefault("get_cmap", pyplot.get_cmap)
    from overcomplete import sae as library

    sparse = {"topk": library.TopKSAE, "batchtopk": library.BatchTopKSAE}
    make = partial(sparse[kind], top_k=size.k) if kind in sparse else library.SAE
    model = make(size.d_model, size.d_sae, device=size.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=size.lr)

    def step(x: Tensor) -> None:
        if kind == "batchtopk":
            model.top_k = size.k * len(x)  # it counts the codes of the whole batch
        loss = partial(library.mse_l1, penalty=L1 / x.numel()) if kind == "relu_l1" else mse
        library.train_sae(model, [x], loss, optimizer, nb_epochs=1, monitoring=0, device=size.device)

    return Peer(step, lambda x: model(x)[2])


def mse(x: Tensor, x_hat: Tensor, pre_codes: Tensor, codes: Tensor, dictionary: Tensor) -> Tensor:
    """The loss of overcomplete's own examples, which come with no such function."""
    return (x - x_hat).square().mean()


PEERS: dict[str, dict[str, Callable[[Size], Peer]]] = {
    "topk": {
        "eai-sparsify": sparsify,
        "sae-lens": partial(sae_lens, "topk"),
        "sae-lens sparse": partial(sae_lens, "topk", use_sparse_activations=True, rescale_acts_by_decoder_norm=False),
        "overcomplete": partial(overcomplete, "topk"),
    },
    "batchtopk": {"sae-lens": partial(sae_lens, "batchtopk"), "overcomplete": partial(overcomplete, "batchtopk")},
    "relu_l1": {
        "sae-lens": partial(sae_lens, "standard", l1_coefficient=L1),
        "overcomplete": partial(overcomplete, "relu_l1"),
    },
    "matryoshka": {"sae-lens": sae_lens_matryoshka},
}
