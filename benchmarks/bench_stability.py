"""Partners of the latents of two dictionaries: `python benchmarks/bench_stability.py [--quick] [--check]`.

Two dictionaries of 16,384 atoms of width 1024, of which a fifth are shared with noise, and their codes on 1,000 images (firing frequencies
over images log-uniform from 0.1 to 30 %, gamma values; a fifth shared): (1) by cosine of atoms, (2) by correlation of codes and Jaccard of
the top 20 images, each in both directions, one-to-many and one-to-one, beside its null, as `saev evaluate stability=true` does for a pair;
(3) beside scikit-learn's whole matrix of cosines and SciPy's assignment of it, which give (1) without the null. `--quick` has a quarter of
the latents. `--check` exits with 1 where a goal is missed.
"""

import argparse
import resource
import time

import numpy as np
import torch
from bench_traits import codes
from goals import print_goals
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csc_matrix, hstack
from sklearn.metrics.pairwise import cosine_similarity

from saev.evaluation.compared import Compared, code_vectors
from saev.evaluation.pairwise import Pair, compare_codes, with_partners
from saev.metrics.matching import SAME

IMAGES, WIDTH = 1000, 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quarter of the latents")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    options = parser.parse_args()
    n = 4096 if options.quick else 16384
    shared, rng = n // 5, np.random.default_rng(0)
    atoms = [torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    atoms[1][:shared] = atoms[0][:shared] + 0.5 * atoms[1][:shared]
    first = csc_matrix(codes(IMAGES, n, rng))
    scores = [first, csc_matrix(hstack([first[:, :shared], codes(IMAGES, n - shared, rng)]))]
    a, b = (Compared(name, x, None, y, None, "", {}) for name, x, y in zip("ab", atoms, scores, strict=True))

    pair, start = Pair({}, {}, {}, None), time.perf_counter()
    with_partners(pair, "cosine", a.atoms, b.atoms, SAME)
    with_partners(pair, "cosine", a.atoms, b.atoms[:, rng.permutation(WIDTH)], SAME, suffix="_null")
    of_atoms = time.perf_counter() - start
    every = np.arange(IMAGES).tobytes()
    start = time.perf_counter()
    compare_codes(pair, code_vectors(a, every), code_vectors(b, every), rng)
    of_codes = time.perf_counter() - start
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    assert pair.numbers["cosine_one_to_one"] == shared / n and pair.numbers["cosine_one_to_one_null"] == 0
    start = time.perf_counter()
    cosines = cosine_similarity(a.atoms.numpy(), b.atoms.numpy())
    best = cosines.max(0), cosines.max(1)
    rows, columns = linear_sum_assignment(cosines, maximize=True)
    reference = time.perf_counter() - start
    assert (cosines[rows, columns] >= SAME).sum() == shared == (best[0] >= SAME).sum()
    print_goals(
        [
            (f"{n} x {n} atoms of width {WIDTH}, with null", f"{of_atoms:.1f} s", "120 s", of_atoms < 120),
            (f"{n} x {n} latents' codes on {IMAGES} images, with null", f"{of_codes:.1f} s", "120 s", of_codes < 120),
            ("memory", f"{gib:.2f} GiB", "4 GiB", gib < 4),
            (
                "whole matrix and assignment, without null / ours, with null",
                f"{reference / of_atoms:.1f} x",
                "1 x",
                reference > of_atoms,
            ),
        ],
        options.check,
    )


if __name__ == "__main__":
    main()
