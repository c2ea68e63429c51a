"""Splicing: nothing changes under the identity, rank zero is mean ablation, other tokens stay, misfits are refused."""

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import paired_cosine_distances
from vits.test_backbone import BACKBONES, pictures

from saev.images import FolderImages
from saev.nn import Normaliser, SparseAutoencoder, TopK
from saev.vits import MicroVit
from saev.vits.activation_site import ActivationSite, site_of
from saev.vits.hooks import HOOKS
from saev.vits.image_batches import image_batches
from saev.vits.outputs import outputs
from saev.vits.splice import Spliced, splice_fidelity


class Identity:
    """Codes are the activations themselves."""

    def __init__(self, d_model):
        self.d_model = self.n_latents = d_model
        self.atoms = torch.eye(d_model)

    def encode(self, acts):
        return acts

    def decode(self, codes):
        return codes


def rank_zero(mean):
    """An autoencoder without any active latent: it answers the mean."""
    sae = SparseAutoencoder(len(mean), 8, TopK(1), Normaliser(mean, torch.tensor(2.0)))
    sae.b_enc.data.fill_(-1e6)
    return sae.eval()


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request):
    return BACKBONES[request.param](request.param)


def mean_at(backbone, images, layer, hook):
    value = backbone(images, [layer], hook)[layer]
    return value[:, backbone.n_cls + backbone.n_registers :].flatten(0, 1).mean(0)


@pytest.mark.parametrize("hook", HOOKS)
def test_identity_changes_nothing_and_rank_zero_is_mean_ablation(backbone, hook):
    layer = backbone.depth - 1 if hook == "norm" else 1
    images = pictures(backbone)
    mean = mean_at(backbone, images, layer, hook)
    site = ActivationSite(layer, hook, "patches")
    rows = splice_fidelity(
        backbone,
        {
            "identity": Spliced(Identity(backbone.d_model), site, mean),
            "zero": Spliced(rank_zero(mean), site, mean),
        },
        [images[:1], images[1:]],
    )
    rows = {name: one.numbers for name, one in rows.items()}
    for key, value in rows["identity"].items():
        kind = key.rpartition("_")[0]
        if kind in ("splice_error", "splice_recovered", "splice_cosine"):
            expected = {"splice_error": 0, "splice_recovered": 1, "splice_cosine": 1}[kind]
            # at the end only the patches themselves are touched: no error of cls to recover
            assert value == expected or kind == "splice_cosine" or np.isnan(value), key
            assert kind != "splice_cosine" or value == pytest.approx(1)
    assert rows["identity"]["mean_error_patches"] > 0 and rows["identity"]["splice_recovered_patches"] == 1
    for key, value in rows["zero"].items():
        if key.startswith(("splice_error", "splice_cosine")):
            assert value == pytest.approx(rows["zero"][key.replace("splice", "mean")], rel=1e-4, abs=1e-6)
    assert rows["zero"]["splice_recovered_patches"] == pytest.approx(0, abs=1e-4)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in backbone.modules()), "no hook is left behind"


def test_numbers_are_those_of_a_forward_by_hand():
    """Blocks run one by one with the patches of block 2's output replaced; the errors by NumPy."""
    backbone = MicroVit(registers=2).load()
    images = pictures(backbone, 5)
    torch.manual_seed(0)
    sae = SparseAutoencoder(32, 64, TopK(4), Normaliser(torch.zeros(32), torch.tensor(1.0))).eval()
    for weights in (sae.w_enc, sae.w_dec):
        torch.nn.init.normal_(weights.data, std=0.3)
    head = {"weight": torch.randn(7, 32), "bias": torch.randn(7)}
    mean = torch.full((32,), 0.1)
    row = splice_fidelity(
        backbone,
        {"x": Spliced(sae, ActivationSite(1, "resid_post", "patches"), mean)},
        [images[:3], images[3:]],
        ("mean", "zero"),
        head,
    )["x"].numbers

    def by_hand(change):
        with torch.no_grad():
            x = backbone(images, [1])[1].clone()
            x[:, 3:] = change(x[:, 3:].reshape(-1, 32)).view(5, 16, 32)
            for block in backbone.trunk.blocks[2:]:
                x = block(x)
            return backbone.trunk.norm(x).double().numpy()

    changes = {"clean": lambda x: x, "splice": sae, "mean": lambda x: mean.expand_as(x), "zero": torch.zeros_like}
    found = {name: by_hand(change) for name, change in changes.items()}
    spans = {"cls": slice(0, 1), "registers": slice(1, 3), "patches": slice(3, None), "pooled": slice(0, 1)}
    for role, span in spans.items():
        clean = found["clean"][:, span].reshape(-1, 32)
        for name in ("splice", "mean", "zero"):
            other = found[name][:, span].reshape(-1, 32)
            error = ((other - clean) ** 2).sum() / (clean**2).sum()
            assert row[f"{name}_error_{role}"] == pytest.approx(error, rel=1e-4)
            cosine = 1 - paired_cosine_distances(clean, other).mean()
            assert row[f"{name}_cosine_{role}"] == pytest.approx(cosine, rel=1e-5)
        expected = 1 - row[f"splice_error_{role}"] / row[f"mean_error_{role}"]
        assert row[f"splice_recovered_{role}"] == pytest.approx(expected)
    logits = {
        name: value[:, 0] @ head["weight"].double().numpy().T + head["bias"].numpy() for name, value in found.items()
    }
    for name in ("splice", "mean"):
        agree = (logits[name].argmax(1) == logits["clean"].argmax(1)).mean()
        assert row[f"{name}_agreement"] == pytest.approx(agree)
        assert row[f"{name}_kl"] > 0


@pytest.mark.parametrize("tokens", ["cls", "special", "patches", "all"])
def test_tokens_outside_the_selection_stay_as_they_are(tokens):
    """The last block's output is what is put there: what is not chosen is the clean run's."""
    backbone = MicroVit(registers=2).load()
    site, images, seen = ActivationSite(3, "resid_post", tokens), pictures(backbone), {}
    chosen = {"cls": ["cls"], "special": ["cls", "registers"], "patches": ["patches"]}.get(
        tokens, ["cls", "registers", "patches"]
    )
    row = splice_fidelity(backbone, {"x": Spliced(Identity(32), site, torch.zeros(32))}, [images])["x"].numbers
    for role in ("cls", "registers", "patches"):
        seen[role] = row[f"mean_error_{role}"]
    assert {role for role, error in seen.items() if error > 0} == {*chosen}


@torch.no_grad()
def test_outputs_are_the_models_own(backbone):
    images = pictures(backbone)
    found = outputs(backbone, images)
    assert torch.equal(found["pooled"], backbone.trunk(images))
    tokens = torch.cat([v.view(2, -1, backbone.d_model) for role, v in found.items() if role != "pooled"], 1)
    torch.testing.assert_close(tokens, backbone(images, [-1], "norm")[backbone.depth - 1])


def test_pictures_of_their_own_grid_are_spliced_too(photos):
    vit = MicroVit(resize="flex", n_patches=40)
    backbone, images = vit.load(), FolderImages(root=str(photos), name="birds")
    batches = list(image_batches(backbone, images, range(23), batch_size=4))
    assert sum(map(len, batches)) == 23 and len({batch.shape[2:] for batch in batches}) > 1
    site, mean = ActivationSite(1, "resid_post", "patches"), torch.zeros(32)
    rows = splice_fidelity(
        backbone, {"a": Spliced(Identity(32), site, mean), "b": Spliced(rank_zero(mean), site, mean)}, batches
    )
    assert rows["a"].numbers["splice_error_cls"] == 0 < rows["b"].numbers["splice_error_cls"]
    assert rows["a"].errors["patches"].shape == (23,) and not rows["a"].errors["cls"].any()
    for role, errors in rows["b"].errors.items():  # of each image the same as alone, whatever batch it is in
        torch.testing.assert_close(errors, rows["b"].reference_errors[role])
    alone = splice_fidelity(backbone, {"b": Spliced(rank_zero(mean), site, mean)}, [batches[-1][-1:]])["b"]
    torch.testing.assert_close(alone.errors["patches"][0], rows["b"].errors["patches"][-1], rtol=1e-3, atol=0)
    assert rows["b"].numbers["splice_recovered_cls"] == pytest.approx(0, abs=1e-6)


def test_broken_images_are_left_out_and_named(photos, tmp_path):
    for path in sorted(photos.rglob("*.png"))[:3]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "broken.png").write_bytes(b"no picture")
    images, errors = FolderImages(root=str(tmp_path), name="x"), []
    backbone = MicroVit().load()
    assert sum(map(len, image_batches(backbone, images, range(4), skipped=errors))) == 3
    assert len(errors) == 1 and "broken.png" in errors[0]
    (number,) = [i for i, path in enumerate(images.paths()) if path == "broken.png"]
    with pytest.raises(ValueError, match=r"none of the 1 images.*broken\.png"):
        list(image_batches(backbone, images, [number]))


# --- where a dictionary belongs


def config(vit, **more):
    meaning = {"name": vit.name, "depth": vit.shape().depth, **vit.identity()}
    about = {"vit": meaning, "layer": -2, "hook": "resid_pre", "token_roles": "patches"}
    return {"d_model": 32, "provenance": about | more}


def test_its_config_says_where_it_belongs():
    vit = MicroVit()
    site = site_of("it", config(vit), vit.identity(), vit.shape())
    assert site == ActivationSite(2, "resid_pre", "patches")
    renamed = MicroVit(name="other")  # the weights count, not the name
    assert site_of("it", config(vit), renamed.identity(), renamed.shape()) == site


def test_pictures_of_another_size_are_warned_of(caplog):
    small, large = MicroVit(img_size=32), MicroVit(img_size=64)
    site_of("it", config(small), large.identity(), large.shape())
    assert "image_size: [32, 32] and [64, 64]" in caplog.text


REFUSED = {
    "another backbone": (
        {},
        MicroVit(seed=1),
        r"it was trained on another backbone \(weights: random:0 and random:1\)",
    ),
    "another depth": ({}, MicroVit(depth=3), "another backbone .depth: 4 and 3"),
    "no such layer": ({"layer": 7}, MicroVit(), "layer=7 is out of range"),
    "no such hook": ({"hook": "somewhere"}, MicroVit(), "hook=somewhere"),
    "no such tokens": ({"token_roles": "special"}, MicroVit(cls_token=True), None),
    "nothing said": ({"layer": None}, MicroVit(), r"lacks .*provenance\.layer"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_dictionary_that_does_not_fit_the_backbone_is_refused(case):
    more, vit, says = REFUSED[case]
    if says is None:  # cls alone makes up the special tokens here
        assert site_of("it", config(MicroVit(), **more), vit.identity(), vit.shape()).tokens == "special"
        return
    with pytest.raises(ValueError, match=says):
        site_of("it", config(MicroVit(), **more), vit.identity(), vit.shape())


def test_tokens_that_the_backbone_lacks_are_refused():
    vit = MicroVit(cls_token=False)
    with pytest.raises(ValueError, match=r"tokens=cls.*has no cls"):
        site_of("it", config(vit, token_roles="cls"), vit.identity(), vit.shape())


def test_hooks_and_references_that_cannot_be_spliced_are_refused():
    backbone = MicroVit().load()
    one = Spliced(Identity(32), ActivationSite(1, "norm", "patches"), torch.zeros(32))
    with pytest.raises(ValueError, match=r"hook=norm at layer=1.*block 3"):
        splice_fidelity(backbone, {"x": one}, [pictures(backbone)])
    with pytest.raises(ValueError, match="references=median"):
        splice_fidelity(backbone, {"x": one}, [pictures(backbone)], ("median",))
