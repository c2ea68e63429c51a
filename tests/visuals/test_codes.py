"""Pages from codes on disk are those of encoding the activations."""

import re

import numpy as np
import pytest
import torch

import saev
from saev.baselines.random_vectors import RandomVectorsDictionary
from saev.checkpoint import save_dictionary
from saev.codes import CodeStore, EncodeSettings
from saev.nn import Normaliser, SparseAutoencoder, TopK
from saev.visuals.codes import codes_of
from saev.visuals.settings import Choice, ShowSettings
from saev.visuals.top_images import heatmaps, survey
from tests.visuals.conftest import D_MODEL, LAYER, N_IMAGES, identity_sae

SHOWN = ShowSettings(choice=Choice(n=4, commonest=0, images=1), n_images=3, device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, store):
    """Dictionaries of the recording's patches: of positive codes, and all projections, of both signs."""
    root = tmp_path_factory.mktemp("dictionaries")
    atoms = torch.randn(40, D_MODEL, generator=torch.Generator().manual_seed(0))
    topk = SparseAutoencoder(D_MODEL, 40, TopK(4))
    with torch.no_grad():
        topk.w_enc.copy_(atoms.T)
    signed = RandomVectorsDictionary(Normaliser(torch.full((D_MODEL,), 0.5), torch.tensor(2.0)), atoms)
    about = {"dataset": store.name, "layer": LAYER, "token_roles": "patches"}
    save_dictionary(identity_sae(), root / "saes" / "identity", provenance=about)
    save_dictionary(topk, root / "saes" / "topk", provenance=about)
    save_dictionary(signed, root / "saes" / "signed", provenance=about)
    return root


def encoded(folder, store, out, **settings) -> list[CodeStore]:
    chosen = EncodeSettings(device="cpu", latent_topk="all", **settings)
    return saev.encode(folder, store, chosen, out=out)


@pytest.mark.parametrize("images", [range(N_IMAGES), [7, 2, 9]])
def test_the_survey_and_heat_maps_are_those_of_encoding(folder, store, tmp_path, images):
    codes = encoded(folder, store, tmp_path, dtype="float32")
    for name, one in zip(("identity", "signed", "topk"), codes, strict=True):
        dictionary = saev.load(folder / "saes" / name)
        images = sorted(images)
        from_acts = survey({name: dictionary}, store, LAYER, images, n=4)[name]
        from_codes = survey({name: one}, store, LAYER, images, n=4)[name]
        for field in ("value", "example", "firings", "images"):
            assert torch.equal(getattr(from_acts, field), getattr(from_codes, field)), field
        torch.testing.assert_close(from_acts.value_sum, from_codes.value_sum, rtol=1e-6, atol=1e-9)
        assert (from_acts.n_tokens, from_acts.n_images) == (from_codes.n_tokens, from_codes.n_images)
        latents = [0, 3, 5]
        maps = heatmaps(one, store, LAYER, 7, latents)
        np.testing.assert_array_equal(maps, heatmaps(dictionary, store, LAYER, 7, latents))


def page(*arguments, **options) -> str:
    (path,) = saev.show(*arguments, settings=SHOWN, **options)
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "", path.read_text())


def test_the_page_is_that_of_encoding_and_reads_no_activations(folder, store, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    encoding = page(folder, store, codes=tmp_path / "none", directory=tmp_path / "a")
    encoded(folder, store, tmp_path / "codes", dtype="float32")
    monkeypatch.setattr(type(store), "read", None)
    assert page(folder, store, codes=tmp_path / "codes", directory=tmp_path / "b") == encoding
    assert encoding.count('data-map="') > 8 and "topk: from its codes in" in caplog.text


def test_directories_of_codes_are_shown_without_their_dictionary(folder, store, tmp_path, monkeypatch):
    encoding = page(folder / "saes" / "topk", store, codes=tmp_path / "none", directory=tmp_path / "a")
    codes = encoded(folder / "saes" / "topk", store, tmp_path / "codes", dtype="float32")[0]
    monkeypatch.setattr(type(store), "read", None)
    shown = page(codes.root, activations=store.root.parent, directory=tmp_path / "b")
    pictures = r'data:image/svg[^"]*'  # with the name as their title
    assert re.sub(pictures, "", shown).replace(codes.root.name, "topk") == re.sub(pictures, "", encoding)
    with pytest.raises(ValueError, match=r"examples=held_out: .* leave examples out, or name the dictionary"):
        saev.show(codes.root, store, ShowSettings(examples="held_out"))
    with pytest.raises(ValueError, match=r"layer=1: .* has codes of layer 2; leave layer out|layer=1 is not in"):
        saev.show(codes.root, store, SHOWN, layer=1)
    with pytest.raises(ValueError, match=r"latents: 40 is not in .*, whose latents are 0 to 39"):
        saev.show(codes.root, store, ShowSettings(latents=(40,)))


def test_only_codes_that_say_all_that_a_page_shows_are_read(folder, store, tmp_path):
    from saev.saved import find_dictionaries, select_tokens

    saved = {one.name: one for one in find_dictionaries(folder / "saes" / "topk")}
    selections = {name: select_tokens(one, store, examples="all") for name, one in saved.items()}
    examples = {name: selection.images for name, selection in selections.items()}
    one = folder / "saes" / "topk"

    def read(root):
        return {name: codes.root.parent for name, codes in codes_of(saved, selections, examples, root).items()}

    saev.encode(one, store, EncodeSettings(device="cpu", views=("token", "image")), out=tmp_path / "view")
    saev.encode(one, store, EncodeSettings(device="cpu", latent_topk=2), out=tmp_path / "few")
    saev.encode(one, store, EncodeSettings(device="cpu", tokens="all"), out=tmp_path / "tokens")
    saev.encode(
        folder / "saes" / "identity", store, EncodeSettings(device="cpu", latent_topk="all"), out=tmp_path / "sae"
    )
    for name in ("view", "few", "tokens", "sae", "none"):
        assert read(tmp_path / name) == {}, name
    saev.encode(one, store, EncodeSettings(device="cpu"), out=tmp_path / "whole")
    assert read(tmp_path / "whole") == {"topk": tmp_path / "whole"}
    other = save_dictionary(saev.load(one), tmp_path / "other", provenance={"layer": LAYER})
    (other / "dictionary.safetensors").write_bytes((folder / "saes/topk/dictionary.safetensors").read_bytes())
    saved = {"topk": find_dictionaries(other)[0]}
    assert read(tmp_path / "whole") == {}, "its config.json is another"
