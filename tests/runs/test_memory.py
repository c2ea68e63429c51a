"""The estimate of a bank's memory."""

from saev.runs.memory import member_size


def test_parameters_and_adam_stay_gradients_and_graph_pass():
    size = member_size(d_model=8, d_sae=32, batch_size=10)
    parameters = 2 * 8 * 32 + 32 + 8
    assert size.fixed == 4 * 3 * parameters + 2 * 8 * 32
    assert size.passing == 4 * (parameters + 5 * 10 * 32 + 3 * 10 * 8)


def test_more_tokens_latents_and_prefixes_take_more():
    base = member_size(64, 512, 1024)
    assert member_size(64, 512, 2048).passing > base.passing and member_size(64, 512, 2048).fixed == base.fixed
    assert member_size(64, 1024, 1024).fixed > base.fixed
    assert member_size(64, 512, 1024, prefixes=5).passing - base.passing == 4 * 3 * 4 * 1024 * 64
    assert member_size(64, 512, 1024, copies=8).passing - base.passing == 4 * 3 * 1024 * 512
