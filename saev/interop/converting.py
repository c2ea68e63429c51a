"""Dictionaries and activations of other libraries into ours, and ours into SAELens' format, each proven before it is kept.

path ──identify──▶ a reader ──▶ written to <out>.part, loaded again, compared with the original's equations ──▶ out
"""

import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from saev.checkpoint import load, read_config, save_dictionary
from saev.interop import opening, saelens, saelens_export, saev_shards
from saev.interop.foreign import Equations, Options
from saev.interop.opening import Kind
from saev.interop.proof import Proof, compare, random_inputs, recorded_inputs
from saev.nn import SparseAutoencoder
from saev.saved import Recording
from saev.shards import ActivationStore

CHECK_OPTIONS = ("layer", "tokens", "n_tokens")
DICTIONARY_OPTIONS = ("centred", "mean", "scale")
SHARD_OPTIONS = ("dtype", "depth", "grid")


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What was converted."""

    directory: Path  # what was written: a dictionary, a recording, or the two files of SAELens
    source: str  # library and architecture, with sizes
    notes: tuple[str, ...] = ()  # what was changed, left out or assumed
    proofs: tuple[Proof, ...] = ()  # of dictionaries: comparisons on random inputs and on activations
    recording: ActivationStore | None = None  # of activation shards, which were read back and found equal


def convert(
    path: str | Path,
    out: str | Path,
    options: Options = Options(),  # noqa: B008 it is frozen
    *,
    check: Recording | None = None,
    progress: bool = False,
) -> Conversion:
    """Convert what is at `path` into the directory `out`, which must not exist; see `saev.interop.KNOWN`.

    A dictionary is compared with the original's equations on random inputs and, with `check`, on recorded activations of
    options.layer. Raises ValueError, and leaves nothing, where they differ or the files cannot be converted exactly.
    Shards are resumed where an interrupted conversion stopped.
    """
    kind, source = opening.identify(Path(path))
    out = Path(out)
    if kind == "saev shards":
        options.refuse((*CHECK_OPTIONS, *DICTIONARY_OPTIONS), f"{source} holds activations")
        if check is not None:
            raise ValueError(f"--check: {source} holds activations; leave it out.")
        store = saev_shards.convert(
            source, out, options.dtype or "float32", options.depth, options.grid, options.ignore_unknown, progress
        )
        return Conversion(out, "saev shards", recording=store)
    options.refuse(SHARD_OPTIONS, f"{source} holds a dictionary, the option is for saev's activation shards")
    if check is None:
        options.refuse(CHECK_OPTIONS, "the option belongs to --check RECORDING")
    elif options.layer is None:
        raise ValueError("--check: give the layer of the activations, --layer N.")
    with staged(out) as folder:
        write = export_dictionary if kind == "ours" else import_dictionary
        conversion = write(kind, source, folder, options, check)
    return dataclasses.replace(conversion, directory=out)


def import_dictionary(kind: Kind, path: Path, folder: Path, options: Options, check: Recording | None) -> Conversion:
    """Read another library's dictionary, write ours, load it again and compare."""
    foreign = opening.read(kind, path, options)
    k = getattr(foreign.sae.sparsifier, "k", None)
    hyperparameters = {"source": foreign.library} | ({} if k is None else {"k": k})
    source = foreign.provenance()
    save_dictionary(foreign.sae, folder, hyperparameters=hyperparameters, provenance={"source": source})
    ours = load(folder)
    assert isinstance(ours, SparseAutoencoder)
    proofs = prove(path, foreign.evaluate, foreign.code_scale, ours, options, check)
    provenance = {"source": source, "proofs": [dataclasses.asdict(proof) for proof in proofs]}
    save_dictionary(foreign.sae, folder, hyperparameters=hyperparameters, provenance=provenance)
    sizes = f"{foreign.sae.n_latents} latents of {foreign.sae.d_model} dimensions"
    return Conversion(folder, f"{foreign.library} {foreign.architecture}, {sizes}", foreign.notes, tuple(proofs))


def export_dictionary(kind: Kind, path: Path, folder: Path, options: Options, check: Recording | None) -> Conversion:
    """Write one of ours for SAELens, read the files by SAELens' equations and compare."""
    options.refuse(DICTIONARY_OPTIONS, f"{path} is one of ours")
    sae = load(path)
    saelens_export.write(sae, read_config(path), folder)
    assert isinstance(sae, SparseAutoencoder)
    written = saelens.read(folder, Options())
    proofs = prove(path, written.evaluate, torch.ones(sae.n_latents, dtype=torch.float64), sae, options, check)
    return Conversion(folder, kind, proofs=tuple(proofs))


def prove(
    path: Path, evaluate: Equations, code_scale: Float[Tensor, " d_sae"], sae: SparseAutoencoder, options: Options,
    check: Recording | None,
) -> Sequence[Proof]:  # fmt: skip
    """Comparisons on random inputs and on the activations of `check`; ValueError where one does not hold."""
    proofs = [compare(evaluate, code_scale, sae, random_inputs(sae), "random inputs", leave_negative=True)]
    if check is not None:
        store = check if isinstance(check, ActivationStore) else ActivationStore(check)
        if store.d_model != sae.d_model:
            raise ValueError(
                f"--check {store.root} has d_model={store.d_model}, the dictionary has {sae.d_model}: give activations of the "
                "backbone it was trained on."
            )
        assert options.layer is not None
        layer, tokens = store.resolve_layer(options.layer), options.tokens or "patches"
        batches = recorded_inputs(store, layer, tokens, options.n_tokens or 20_000)
        proofs.append(compare(evaluate, code_scale, sae, batches, f"{store.name}, layer {layer}, {tokens}"))
    for proof in reversed(proofs):  # report real activations first
        proof.require(f"{path} converted")
    return proofs


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A folder that becomes `out` when the block ends and is removed when it raises; ValueError where `out` exists."""
    if out.exists():
        raise ValueError(f"{out} exists already and is never overwritten: choose another directory, or delete it.")
    folder = out.with_name(f"{out.name}.part")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ValueError(f"{out} cannot be made ({error.strerror}): choose another directory.") from error
    try:
        yield folder
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
