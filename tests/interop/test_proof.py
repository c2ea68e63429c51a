"""The comparison of a converted dictionary with the original: it holds for the same function, and for no other."""

import numpy as np
import pytest
import torch
from interop import files

from saev.interop.proof import compare, random_inputs, recorded_inputs
from saev.interop.rebuilding import Above, Affine, Gate, Largest, Rectified, rebuild
from saev.nn import Normaliser
from saev.shards import ActivationStore

W = {name: torch.from_numpy(value).double() for name, value in files.affine(norms=(0.5, 2)).items()}
X = torch.from_numpy(files.inputs())


def relu(x):
    f = ((x.double() - W["b_dec"]) @ W["W_enc"] + W["b_enc"]).relu()
    return f, f @ W["W_dec"] + W["b_dec"]


def make(**changes):
    w = {**W, **changes}
    return rebuild(Affine(w["W_enc"], w["b_enc"], w["W_dec"], w["b_dec"], centred=True), Rectified())


def test_the_numbers_are_nmse_and_l0_over_all_tokens():
    built = make()
    proof = compare(relu, built.code_scale, built.sae, X.split(70), "these")
    codes, x_hat = (value.numpy() for value in relu(X))
    x = X.double().numpy()
    assert proof.nmse[0] == pytest.approx(((x - x_hat) ** 2).sum() / ((x - x.mean(0)) ** 2).sum())
    assert proof.l0[0] == pytest.approx((codes != 0).sum(1).mean()) and proof.tokens == 300
    assert proof.holds and proof.different == 0 and proof.active == (codes != 0).sum()


@pytest.mark.parametrize("name", ["W_enc", "b_enc", "W_dec", "b_dec"])
def test_a_thousandth_more_in_any_weight_is_noticed(name):
    built = make(**{name: W[name] * 1.001})
    proof = compare(relu, make().code_scale, built.sae, random_inputs(make().sae), "random inputs")
    assert not proof.holds
    with pytest.raises(ValueError, match="it differs from the original on 1024 tokens"):
        proof.require("it")


def test_a_bias_that_only_the_decoder_has_is_noticed():
    built = make()

    def other(x):
        codes, x_hat = relu(x)
        return codes, x_hat + 1e-3 * W["b_dec"]

    proof = compare(other, built.code_scale, built.sae, random_inputs(built.sae), "random inputs")
    assert proof.different == 0 and proof.apart > 0 and not proof.holds


def test_a_scale_of_codes_that_the_reconstruction_hides_is_noticed():
    built = make()
    assert not compare(relu, torch.ones(20).double(), built.sae, [X], "these").holds


def test_an_encoder_taken_for_the_other_kind_is_noticed():
    affine = Affine(W["W_enc"], W["b_enc"], W["W_dec"], W["b_dec"], centred=False)
    built = rebuild(affine, Rectified())
    assert not compare(relu, built.code_scale, built.sae, [X], "these").holds


def test_nothing_is_shown_where_nothing_fires_or_there_are_no_tokens():
    built = make(b_enc=W["b_enc"] - 1e6)
    silent = lambda x: (torch.zeros(len(x), 20).double(), W["b_dec"].expand(len(x), -1))  # noqa: E731
    with pytest.raises(ValueError, match=r"no latent of the original fires.*--check"):
        compare(silent, built.code_scale, built.sae, [X], "these").require("it")
    with pytest.raises(ValueError, match="has no tokens"):
        compare(relu, built.code_scale, built.sae, [], "these")


@pytest.mark.parametrize("x", [X[:1], X[:1].expand(5, -1)])
def test_the_same_function_is_proven_on_equal_tokens_too(x):
    """They have no NMSE."""
    proof = compare(relu, make().code_scale, make().sae, [x], "these")
    proof.require("it")
    wrong = make(W_enc=W["W_enc"] * 1.001)
    assert not compare(relu, make().code_scale, wrong.sae, [x], "these").holds


RULES = {
    "relu": Rectified(),
    "topk": Largest(3),
    "jumprelu": Above(torch.linspace(0.5, 40, 20).double()),
    "gated": Gate(*(torch.linspace(a, b, 20).double() for a, b in ((-1, 1), (-9, 2), (-5, 5)))),
}


@pytest.mark.parametrize("bias", [0.0, -50.0])
@pytest.mark.parametrize("name", RULES)
def test_random_inputs_make_every_latent_fire_and_not_fire(name, bias):
    affine = Affine(W["W_enc"], W["b_enc"] * (name != "gated") + bias, W["W_dec"], W["b_dec"], centred=False)
    sae = rebuild(affine, RULES[name], Normaliser(torch.linspace(-5, 9, 6), torch.tensor(30.0))).sae
    codes = torch.cat([sae.encode(x) for x in random_inputs(sae)])
    share = (codes != 0).double().mean(0)
    assert bool((share > 0).all()) and bool((share < 0.99).all())
    assert all(torch.equal(a, b) for a, b in zip(random_inputs(sae), random_inputs(sae), strict=True))


def test_recorded_inputs_are_the_first_tokens_of_the_layer(tiny):
    store = ActivationStore(tiny)
    found = torch.cat(list(recorded_inputs(store, 2, "patches", 40, batch_size=16)))
    wanted = np.concatenate([store.read(2, example, "patches") for example in range(3)])[:40]
    assert np.array_equal(found.numpy(), wanted)
