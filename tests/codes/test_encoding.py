"""Encoding a recording: every selected token's row, whatever the batches, the interruptions and the parts."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from codes.dictionaries import Signed, sae
from recordings import record
from safetensors.torch import save_file

from saev.codes import CodesManifest, CodeStore, CodeWriter, EncodeSettings
from saev.codes.encoding import encode_shards
from saev.codes.manifest import identity_of
from saev.shards import ActivationStore
from saev.shards.selected_tokens import Selection


def selection(data: Path, images=None, **settings) -> Selection:
    store = ActivationStore(data)
    images = np.flatnonzero(store.tokens_per_image(1)) if images is None else np.array(images)
    return Selection(store, 1, images, **settings)


def writer(out: Path, chosen: Selection, dictionary, layout=None, saved: Path | None = None) -> CodeWriter:
    path = saved or out / "dictionary"
    path.mkdir(parents=True, exist_ok=True)
    save_file({"atoms": dictionary.atoms.contiguous()}, path / "dictionary.safetensors")
    (path / "config.json").write_text("{}")
    manifest = CodesManifest.of(
        identity_of(path), dictionary.n_latents, chosen, layout or EncodeSettings(dtype="float32")
    )
    return CodeWriter(out, manifest, chosen)


def encoded(out: Path, chosen: Selection, dictionary, layout=None, **settings) -> CodeStore:
    target = writer(out, chosen, dictionary, layout)
    encode_shards({"it": dictionary}, {"it": target}, chosen, (layout or EncodeSettings()).most, **settings)
    assert target.finish()
    return CodeStore(target.root)


def dense(chosen: Selection, dictionary) -> np.ndarray:
    """The codes of the selected tokens, image by image."""
    store = chosen.store
    acts = [store.read(1, e, chosen.tokens) for e in sorted(chosen.images.tolist()) if store.tokens_per_image(1)[e]]
    return dictionary.encode(torch.from_numpy(np.concatenate(acts))).numpy()


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("tokens", ["patches", "cls", "all"])
@pytest.mark.parametrize("kind", ["topk", "batchtopk", "relu", "jumprelu", "gated"])
def test_rows_are_the_dense_codes(kind, tokens, tiny, tmp_path):
    chosen = selection(tiny, tokens=tokens)
    codes = encoded(tmp_path, chosen, sae(kind), batch_size=100)
    wanted = dense(chosen, sae(kind))
    assert codes.shape == wanted.shape and codes.nnz == np.count_nonzero(wanted)
    found = codes.rows().dense()
    np.testing.assert_array_equal(found != 0, wanted != 0)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)  # a product of matrices rounds by the size of its batch


def test_held_out_images_labels_and_images_that_could_not_be_read(tmp_path):
    """One shard has no row at all, an image no tokens; the rest are where `tokens` says."""
    data = record(tmp_path / "data", skipped=(3,), labels=True, examples_per_shard=10)
    chosen = selection(data, [1, 2, 3, 21, 22, 39], ignore_labels=(2,))
    codes = encoded(tmp_path, chosen, sae("relu"))
    assert chosen.rows.tolist() == [len(codes) - chosen.rows[2:].sum(), 0, *chosen.rows[2:]] and len(codes) < 6 * 16
    example, token = codes.tokens()
    assert sorted({*example.tolist()}) == [1, 2, 21, 22, 39]
    labels, first = chosen.store.token_labels, np.cumsum([0, *chosen.store.tokens_per_image(1)])
    assert (labels[first[example] + token] != 2).all() and (token > 0).all()
    acts = np.stack([chosen.store.read(1, e)[t] for e, t in zip(example.tolist(), token.tolist(), strict=True)])
    np.testing.assert_allclose(codes.rows().dense(), sae("relu").encode(torch.from_numpy(acts)), rtol=1e-5, atol=1e-6)
    assert codes.manifest.shards[1]["nnz"] == 0 and codes.rows_of(3) == codes.rows_of(4)


def test_several_dictionaries_share_a_pass(tiny, tmp_path):
    chosen, batches = selection(tiny), []
    members = {kind: sae(kind) for kind in ("topk", "gated")}
    writers = {kind: writer(tmp_path, chosen, members[kind], saved=tmp_path / kind) for kind in members}
    encode_shards(members, writers, chosen, batch_size=64, advance=batches.append)
    assert sum(batches) == 640 and all(one.finish() for one in writers.values())
    for kind, one in writers.items():
        np.testing.assert_allclose(CodeStore(one.root).rows().dense(), dense(chosen, members[kind]), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_dense_codes_keep_the_largest(dtype, tiny, tmp_path):
    chosen, dictionary = selection(tiny), Signed(factor=1e-4)
    wanted = dense(chosen, dictionary)
    few = encoded(tmp_path, chosen, dictionary, EncodeSettings(latent_topk=4, dtype=dtype))
    whole = encoded(tmp_path, chosen, dictionary, EncodeSettings(latent_topk="all", dtype=dtype))
    assert few.root != whole.root and few.nnz == 4 * 640 and whole.nnz == 40 * 640
    rtol = 1e-3 if dtype == "float16" else 1e-4
    np.testing.assert_allclose(whole.rows().dense(), wanted, rtol=rtol, atol=1e-7)
    kept = np.sort(np.abs(few.rows().dense()), axis=1)[:, -4:]
    np.testing.assert_allclose(kept, np.sort(np.abs(wanted), axis=1)[:, -4:], rtol=rtol, atol=1e-7)
    assert few.rows().values.dtype == dtype


def test_values_beyond_the_dtype_stop_with_the_remedy(tiny, tmp_path):
    chosen, large = selection(tiny), Signed(factor=1e5)
    with pytest.raises(ValueError, match=r"beyond the range of float16 \(65504\).*dtype=float32"):
        encoded(tmp_path, chosen, large, EncodeSettings(latent_topk="all", dtype="float16"))
    assert not [path for path in tmp_path.rglob("*0*.npy*")], "nothing of the shard is left"
    assert (
        encoded(tmp_path, chosen, large, EncodeSettings(latent_topk="all", dtype="float32")).rows(0, 9).dense().max()
        > 65504
    )
    with pytest.raises(ValueError, match="NaN or infinite: it has diverged"):
        encoded(tmp_path, chosen, Signed(factor=float("nan")), EncodeSettings(latent_topk="all", dtype="float32"))


def test_parts_make_the_same_codes(tiny, tmp_path):
    chosen, dictionary = selection(tiny), sae("relu")
    whole = encoded(tmp_path / "whole", chosen, dictionary, batch_size=50)
    target = writer(tmp_path / "parts", chosen, dictionary)
    for number in (2, 0, 1):
        assert not target.finish()
        with pytest.raises(ValueError, match="is incomplete"):
            CodeStore(target.root)
        encode_shards({"it": dictionary}, {"it": target}, chosen, part=(number, 3), batch_size=50)
    assert target.finish() and target.finish()
    expected, found = files(whole.root), files(target.root)
    assert {n: b for n, b in found.items() if n != "manifest.json"} == {
        n: b for n, b in expected.items() if n != "manifest.json"
    }  # whose manifests differ in the dictionary's path
    assert CodeStore(target.root).verify() == []


def test_what_is_done_is_not_done_again(tiny, tmp_path):
    chosen, dictionary = selection(tiny), sae("topk")
    codes = encoded(tmp_path, chosen, dictionary)
    before = {path: path.stat().st_mtime_ns for path in codes.root.iterdir()}
    batches: list[int] = []
    encoded(tmp_path, chosen, dictionary, advance=batches.append)
    assert not batches and before == {path: path.stat().st_mtime_ns for path in codes.root.iterdir()}


# --- interrupted


def encode_small(root: str, dies_at: str = "0") -> None:
    """Three shards of two images; SIGKILL within the encoding of batch `dies_at`, counted from 1."""
    data = Path(root).parent / "data"
    dictionary, batches = sae("relu"), iter(range(1, 100))
    honest = dictionary.encode

    def mortal(acts):
        if next(batches) == int(dies_at):
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(acts)

    dictionary.encode = mortal  # type: ignore[method-assign]
    chosen = selection(data)
    target = writer(Path(root), chosen, dictionary, saved=Path(root).parent / "dictionary")
    encode_shards({"it": dictionary}, {"it": target}, chosen, batch_size=4)
    assert target.finish()


CALL = "codes.test_encoding:encode_small"


def test_killed_in_the_middle_of_a_shard(nursery, tmp_path):
    record(tmp_path / "data", 5, 4, examples_per_shard=2)
    undisturbed = nursery.run(CALL, tmp_path / "whole", root=tmp_path / "whole")
    assert not undisturbed["error"]
    for dies_at in (2, 3, 4):
        root = tmp_path / f"at-{dies_at}"
        assert nursery.run(CALL, root, dies_at, root=root)["killed"]
        left = files(root)
        assert any(name.endswith(".part") for name in left) and not any(b'"complete": true' in b for b in left.values())
        assert not nursery.run(CALL, root, root=root)["error"]
        assert files(root) == files(tmp_path / "whole")


def test_killed_at_any_step_on_the_disk(nursery, tmp_path):
    record(tmp_path / "data", 5, 4, examples_per_shard=2)
    undisturbed = nursery.run(CALL, tmp_path / "whole", root=tmp_path / "whole")
    whole, n = files(tmp_path / "whole"), undisturbed["moments"]
    assert not undisturbed["error"] and n > 30
    for at in {*range(2, n, 4), *range(n - 12, n + 1, 2)}:
        root = tmp_path / f"cut-{at}"
        assert nursery.run(CALL, root, root=root, at=at)["killed"], at
        left = files(root)
        complete = any(b'"complete": true' in data for name, data in left.items() if name.endswith("manifest.json"))
        assert left == whole or not complete, f"moment {at}: codes that say they are complete are"
        again = nursery.run(CALL, root, root=root)
        assert not again["error"], f"moment {at}: {again['error']}"
        assert files(root) == whole, f"moment {at}"


def test_ctrl_c_leaves_whole_shards_alone(tiny, tmp_path):
    chosen, dictionary, seen = selection(tiny), sae("topk"), []
    target = writer(tmp_path, chosen, dictionary)

    def interrupt(n: int) -> None:
        seen.append(n)
        if sum(seen) > 400:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_shards({"it": dictionary}, {"it": target}, chosen, batch_size=64, advance=interrupt)
    assert target.pending() == [1, 2] and not target.finish()
    assert not list(target.root.glob("*.part")) and not list(target.root.glob("000001*"))
    encode_shards({"it": dictionary}, {"it": target}, chosen, batch_size=64)
    assert target.finish()
    np.testing.assert_allclose(CodeStore(target.root).rows().dense(), dense(chosen, dictionary), rtol=1e-5)
