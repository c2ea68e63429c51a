"""The best latents of a small sample from one pass: their tables, and what they come to."""

import torch
from probing.labelled import CLASSES, LATENTS, N, codes, equal, labels

from saev.codes.pairs import from_dense
from saev.probing.counts.statistics import LatentLabelStats
from saev.probing.counts.table import Columns
from saev.probing.labels import Classes
from saev.probing.quick import column_table, quick_score
from saev.probing.sample import Sample, Tokens


class Given:
    """A dictionary whose codes are the activations themselves."""

    d_model = n_latents = LATENTS
    atoms = torch.eye(LATENTS)

    def encode(self, acts):
        return acts

    def decode(self, codes):
        return codes


def sample(x, y, classes=CLASSES):
    half = N // 2
    names = Classes(tuple(range(classes)), ("",) * classes)
    return Sample(Tokens(x[:half], y[:half]), Tokens(x[half:], y[half:]), names)


def test_rows_of_a_table_turned_round_are_those_of_the_columns_codes():
    best, slope = torch.tensor([3, 4, 4, 0]), torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=torch.float64)
    columns = Columns.choose(best, slope, LATENTS)
    every, chosen = LatentLabelStats(LATENTS, CLASSES, 5), LatentLabelStats(len(columns), CLASSES, 5)
    every.update(codes(), labels())
    chosen.update(columns.select(from_dense(codes())), labels())
    assert {*columns.signs.tolist()} == {1, -1}
    equal(column_table(every.compute(), columns), chosen.compute())


def test_a_latent_that_is_silent_on_a_class_alone_tells_it_perfectly():
    """Guards against rankings of codes that were not turned round."""
    y = torch.arange(N) % 2
    x = torch.zeros(N, LATENTS)
    x[:, 2] = (y == 1) * torch.rand(N, generator=torch.Generator().manual_seed(0)).add(1)
    found = quick_score(Given(), sample(x, y, 2))
    assert found["map"] == 1 and found["r"] > 0.999 and found["n_classes"] == 2


def test_codes_that_say_nothing_come_to_nothing():
    assert quick_score(Given(), sample(torch.zeros(N, LATENTS), labels())) == {}
    broken = codes()
    broken[7, 0] = torch.nan
    assert quick_score(Given(), sample(broken, labels())) == {}
