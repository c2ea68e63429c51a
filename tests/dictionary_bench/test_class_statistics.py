"""F statistics against scikit-learn, and the split."""

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_selection import f_classif

from saev.dictionary_bench.class_statistics import f_statistics, f_statistics_of_each_class, split


def test_f_statistics_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    x = rng.exponential(size=(60, 30)) * (rng.random((60, 30)) < 0.3)
    x[:, 3], x[:, 4] = 0, 7.1
    classes = rng.integers(0, 5, 60)
    x[:, 5] = classes  # no variance within a class
    found = f_statistics(csr_matrix(x), classes)
    assert found[3] == found[4] == -np.inf and found[5] == np.inf
    others = [i for i in range(30) if i not in (3, 4, 5)]
    assert np.allclose(found[others], f_classif(x[:, others], classes)[0])
    each = f_statistics_of_each_class(csr_matrix(x), classes)
    for c in range(5):
        assert np.allclose(each[c, others], f_classif(x[:, others], classes == c)[0])


def test_the_split_is_stratified_where_it_can_be():
    classes = np.repeat([0, 1, 2], [50, 30, 20])
    train, test = split(classes)
    assert sorted([*train, *test]) == list(range(100))
    assert np.bincount(classes[test]).tolist() == [10, 6, 4]
    assert len(split(np.append(classes, 3))[1]) == 21  # a class with one image
    assert len(split(np.arange(20) // 2)[1]) == 4  # more classes than test images
