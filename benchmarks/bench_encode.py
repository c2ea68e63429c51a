"""Encoding beside the encoder alone, views of the codes beside the codes by token, and CSR from pairs beside CSR from a dense
array: `python benchmarks/bench_encode.py`.

A pass writes shards and statistics of one dictionary with random weights and about 32 active latents; the encoder alone
goes over the same tokens in memory, in the same batches. Both run in turn in one process; a row shows the median times
and the median of the ratios. `--dataset` takes a recording instead of synthetic activations; `--quick` takes fewer tokens
and repeats, `--check` exits with 1 where a goal is missed.
"""

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.sparse import csr_matrix

from saev.checkpoint import save_dictionary
from saev.codes import CodesManifest, CodeStore, CodeWriter, EncodeSettings, by_latent
from saev.codes.encoding import encode_shards
from saev.codes.manifest import ARRAYS, identity_of
from saev.codes.pairs import from_pairs, narrowed
from saev.nn import BatchTopK, Gated, JumpReLU, Normaliser, ReLU, SparseAutoencoder, TopK
from saev.ops.topk import topk_indices
from saev.shards import ActivationStore, RecordingWriter
from saev.shards.selected_tokens import Selection

K, TOKENS, BATCH = 32, 256, 4096
KINDS: dict[str, Callable] = {
    "topk": lambda: TopK(K),
    "batchtopk": lambda: BatchTopK(K),
    "relu": lambda: ReLU(1e-3),
    "jumprelu": lambda: JumpReLU(),
    "gated": lambda: Gated(1e-3),
}


def record(root: Path, n_images: int, d_model: int) -> Path:
    """Images of 256 tokens that are sparse combinations of 4 d_model atoms, an eighth of them the image's own."""
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(4 * d_model, d_model)).astype(np.float32)
    writer = RecordingWriter(root, {"images": "synthetic"}, n_images, 64, [0], {"patches": TOKENS}, d_model)
    for number in writer.pending():
        with writer.shard(number) as shard:
            for example in writer.examples_of(number):
                features = rng.choice(len(atoms), len(atoms) // 8, replace=False)
                weights = rng.exponential(size=(TOKENS, len(features))) * (rng.random((TOKENS, len(features))) < 0.1)
                shard.add(example, {0: (weights.astype(np.float32) @ atoms[features] / 10).astype(np.float16)}, {})
    writer.finish()
    return root


@torch.no_grad()
def dictionary(kind: str, selection: Selection, expansion: int) -> SparseAutoencoder:
    """Random unit atoms as its encoder too; thresholds by the first tokens, so that about K latents are active."""
    store, torch_rng = selection.store, torch.Generator().manual_seed(0)
    d_model, d_sae = store.d_model, expansion * store.d_model
    sae = SparseAutoencoder(d_model, d_sae, KINDS[kind](), Normaliser.fit(store.moments(selection.layer)))
    sae.w_dec.copy_(torch.nn.functional.normalize(torch.randn(d_sae, d_model, generator=torch_rng), dim=1))
    sae.w_enc.copy_(sae.w_dec.T)
    x = torch.from_numpy(selection.first_batch(1024)["acts"]).float()
    level = sae.pre_activations(sae.normaliser(x)).topk(K + 1, dim=1).values[:, -1].mean()
    rule: Any = sae.sparsifier
    if kind in ("batchtopk", "jumprelu"):
        rule.theta.fill_(level)
    elif kind == "gated":
        rule.b_gate.fill_(-level)
    elif kind == "relu":
        sae.b_enc.fill_(-level)
    return sae.eval().requires_grad_(False)


class Encoding:
    """One dictionary's encoding of a selection, and its encoder alone on the same tokens."""

    def __init__(self, kind: str, selection: Selection, expansion: int, scratch: Path):
        self.sae, self.selection, self.scratch, self.runs = (
            dictionary(kind, selection, expansion),
            selection,
            scratch,
            0,
        )
        self.saved = save_dictionary(self.sae, scratch / kind)
        shards = range(len(selection.rows))
        self.batches = [torch.from_numpy(b["acts"].copy()) for s in shards for b in selection.batches(s, BATCH)]

    @torch.inference_mode()
    def forward(self) -> None:
        for batch in self.batches:
            self.sae.encode(batch.float())

    def encode(self, *views: str) -> CodeStore:
        self.runs += 1
        manifest = CodesManifest.of(identity_of(self.saved), self.sae.n_latents, self.selection, EncodeSettings())
        writer = CodeWriter(self.scratch / f"codes-{self.runs}", manifest, self.selection, views)
        encode_shards({"it": self.sae}, {"it": writer}, self.selection, batch_size=BATCH)
        assert writer.finish()
        return CodeStore(writer.root)


def latents_of(codes: CodeStore) -> tuple[Callable, Callable]:
    """(200 latents' rows and codes from the shards by token, the same from the view by latent)."""
    chosen = np.random.default_rng(0).choice(codes.n_latents, 200, replace=False).tolist()

    def by_token() -> None:
        for latent in chosen[:20]:  # a tenth, because each reads every shard
            for shard in range(len(codes.manifest.shards)):
                indptr, indices, values = (np.asarray(codes.array(shard, name)) for name in ARRAYS)
                where = np.flatnonzero(indices == latent)
                np.searchsorted(indptr, where, "right"), values[where]

    return by_token, lambda: [codes.latent(latent) for latent in chosen]


def latents_of_1e5_pairs(root: Path, n_latents: int = 40, n_tokens: int = 1_000_000) -> CodeStore:
    """Codes by latent alone: every latent fires on a tenth of the tokens, chosen at random."""
    root.mkdir()
    rng = np.random.default_rng(0)
    rows = np.sort(rng.integers(0, n_tokens, (n_latents, n_tokens // 10)), axis=1)
    np.save(root / by_latent.OFFSETS, np.arange(n_latents + 1) * (n_tokens // 10))
    np.save(root / by_latent.ROWS, rows.astype(np.uint32).ravel())
    np.save(root / by_latent.VALUES, rng.random(rows.size).astype(np.float16))
    shards = ({"tokens": n_tokens, "nnz": rows.size},)
    manifest = CodesManifest(
        {"path": "", "sha256": ""}, {"name": "", "fingerprint": ""}, 0, "all", (), {}, None, "float16", n_latents
    )
    dataclasses.replace(manifest, shards=shards, nnz=rows.size, views=("latent",), complete=True).save(root)
    return CodeStore(root)


def csr_rows(d_sae: int) -> tuple[Callable, Callable]:
    """(SciPy's CSR of a dense batch, ours of its pairs as they are written), from the same top-k selection."""
    h = torch.randn(BATCH, d_sae, generator=torch.Generator().manual_seed(0))
    latents = topk_indices(h, K)
    values = h.gather(1, latents).relu()
    dense = torch.zeros_like(h).scatter(1, latents, values).numpy()

    def ours() -> None:
        codes = from_pairs(latents, values)
        narrowed(codes.values, torch.float16)

    return partial(csr_matrix, dense), ours


def clock(call: Callable) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(reference: Callable, ours: Callable, repeats: int) -> tuple[float, float, float]:
    """Median seconds of both, run in turn, and the median of reference / ours."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        reference()
        middle = time.perf_counter()
        ours()
        times.append((middle - start, time.perf_counter() - middle))
    pairs = times[1:]  # the first warms up
    a, b, ratio = zip(*((a, b, a / b) for a, b in pairs), strict=True)
    return statistics.median(a), statistics.median(b), statistics.median(ratio)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer tokens and repeats: under a minute on 2 cores")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parser.add_argument("--dataset", help="a recording; its first layer is encoded")
    parser.add_argument("--d-model", type=int, default=384, help="of the synthetic activations")
    parser.add_argument("--expansion", type=int, default=8)
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="1: on a machine that does other work too"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    repeats = 2 if args.quick else 5
    with tempfile.TemporaryDirectory() as scratch:
        root = args.dataset or record(Path(scratch) / "data", 128 if args.quick else 256, args.d_model)
        store = ActivationStore(root)
        images = np.flatnonzero(store.tokens_per_image(store.layers[0]))
        selection = Selection(store, store.layers[0], images[: 128 if args.quick else 256])
        d_sae = args.expansion * store.d_model
        threads, n = torch.get_num_threads(), selection.spans.n_tokens
        table = Table(
            "what", "reference ms", "ours ms", "ratio", "goal",
            title=f"{n} tokens, d_model {store.d_model}, d_sae {d_sae}, {threads} CPU threads",
        )  # fmt: skip
        rows = []
        for kind in KINDS:
            work = Encoding(kind, selection, args.expansion, Path(scratch))
            token = partial(work.encode, "token")
            rows.append((f"{kind}: encoder alone / codes by token", *measure(work.forward, token, repeats), 0.7))
        everything = partial(work.encode, "token", "latent", "image")
        rows.append((f"{kind}: by token / by token, latent and image", *measure(token, everything, repeats), 1 / 1.5))
        image = partial(work.encode, "image")
        rows.append((f"{kind}: encoder alone / codes by image", *measure(work.forward, image, repeats), 0.8))
        read, view, ratio = measure(*latents_of(everything()), 3 * repeats)
        rows.append(("200 latents: from the codes by token / by latent", 10 * read, view, 10 * ratio, 50.0))
        large = latents_of_1e5_pairs(Path(scratch) / "large")
        times = [clock(partial(large.latent, latent)) for _ in range(2) for latent in range(large.n_latents)]
        warm = statistics.median(times[large.n_latents :])  # in the second round
        rows.append(("latent(j), 1e5 pairs, warm: 10 ms / ours", 1e-2, warm, 1e-2 / warm, 1.0))
        csr = measure(*csr_rows(d_sae), 3 * repeats)
        rows.append((f"CSR of {BATCH} tokens: of the dense array / of the pairs", *csr, 20.0))
        for what, a, b, ratio, goal in rows:
            style = "red" if ratio < goal else None
            table.add_row(what, f"{1e3 * a:.1f}", f"{1e3 * b:.1f}", f"{ratio:.2f}", f"{goal:.3g}", style=style)
    Console().print(table)
    return int(args.check and any(ratio < goal for *_, ratio, goal in rows))


if __name__ == "__main__":
    sys.exit(main())
