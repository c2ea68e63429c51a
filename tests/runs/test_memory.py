"""The estimate of a bank's memory."""

from saev.runs.memory import member_size


def test_parameters_and_adam_stay_gradients_and_graph_pass():
    size = member_size(d_model=8, d_sae=32, batch_size=10)
    parameters = 2 * 8 * 32 + 32 + 8
    assert size.fixed == 4 * 3 * parameters + 2 * 8 * 32
    assert size.passing == 4 * (parameters + 5 * 10 * 32 + 3 * 10 * 8)


def test_bfloat16_halves_the_graph_and_copies_the_weights():
    d_model, d_sae, batch, k = 1024, 16384, 16384, 32
    weights = 2 * d_model * d_sae + d_sae
    whole, half = member_size(d_model, d_sae, batch), member_size(d_model, d_sae, batch, half=True)
    assert half.fixed - whole.fixed == 2 * weights
    assert whole.passing - half.passing == (5 * 4 - 5 * 2 - 4) * batch * d_sae - 2 * weights
    gradients = 4 * (weights + d_model)
    # the buffers of saev.ops.fused: h, maxima of 32, counts of 128 rows twice; centred and residuals; pairs twice, chosen groups
    buffers = batch * (d_sae * (2 + 2 / 32 + 8 / 128) + 2 * 2 * d_model + 24 * k)
    assert gradients + buffers < half.passing


def test_more_tokens_latents_and_prefixes_take_more():
    base = member_size(64, 512, 1024)
    assert member_size(64, 512, 2048).passing > base.passing and member_size(64, 512, 2048).fixed == base.fixed
    assert member_size(64, 1024, 1024).fixed > base.fixed
    assert member_size(64, 512, 1024, prefixes=5).passing - base.passing == 4 * 3 * 4 * 1024 * 64
    assert member_size(64, 512, 1024, copies=8).passing - base.passing == 4 * 3 * 1024 * 512
