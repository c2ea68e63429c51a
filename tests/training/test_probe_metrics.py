"""A linear probe's numbers where validation has tokens of classes that training lacks: negatives of each class, and nothing else."""

import numpy as np
import torch
from sklearn.metrics import average_precision_score

from saev.training.linear.metrics import ProbeLoss, ProbeScores


def test_tokens_of_other_classes_are_negatives_of_each_and_have_no_loss():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 600)  # 3: none of the three classes
    logits = torch.from_numpy(rng.normal(size=(600, 3)) + 2 * np.eye(4, 3)[labels]).float()
    loss, scores = ProbeLoss(3, exclusive=True), ProbeScores(3, exclusive=True)
    loss.update(logits, torch.from_numpy(labels))
    scores.update(logits, torch.from_numpy(labels))
    p = logits.double().softmax(1).numpy()
    for c, ap in enumerate(scores.compute().tolist()):
        assert abs(ap - average_precision_score(labels == c, p[:, c])) < 2e-3
    known = labels < 3
    numbers = loss.compute()
    assert int(numbers["n_tokens"]) == known.sum()
    assert abs(float(numbers["ce"]) + np.log(p[known, labels[known]]).mean()) < 1e-6
    assert float(numbers["accuracy"]) == (p.argmax(1) == labels)[known].mean()
