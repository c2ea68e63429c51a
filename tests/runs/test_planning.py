"""Which combinations of a sweep share a job."""

import pytest

from saev.runs.planning import Job, describe, folders, key_of, members, names, plan, split


def config(**values):
    return {"layer": 8, "sparsity": 1, "k": 1, "sae": {"_target_": "x"}, "variants": None, **values}


def test_keys():
    assert [key_of(o) for o in ("k=1", "+k=1", "++sae.k=1", "~auxk", "sae@x=topk")] == ["k", "k", "sae", "auxk", "sae"]


def test_per_sae_settings_share_a_job_and_others_make_one_each():
    combinations = [
        (["layer=13", "k=1"], config(layer=13, k=1)),
        (["layer=13", "k=2"], config(layer=13, k=2)),
        (["layer=23", "k=1"], config(layer=23, k=1)),
        (["layer=23", "k=2"], config(layer=23, k=2)),
    ]
    jobs = plan(combinations)
    assert jobs == [Job(["layer=13"], [["k=1"], ["k=2"]]), Job(["layer=23"], [["k=1"], ["k=2"]])]
    assert describe(jobs) == "4 SAEs in 2 jobs: layer=13 x2, layer=23 x2"
    assert jobs[0].overrides == ["layer=13", 'variants=[["k=1"],["k=2"]]']


def test_choices_that_compose_to_the_same_stream_share_a_job():
    combinations = [(["sae=topk", "k=4"], config(sae="t", k=4)), (["sae=relu", "k=4"], config(sae="r", k=4))]
    assert len(plan(combinations)) == 1


def test_experiments_make_a_job_of_each_even_where_the_rest_agrees():
    combinations = [(["experiment=a"], config(sae="t")), (["experiment=b"], config(sae="r"))]
    assert plan(combinations) == [Job(["experiment=a"], [[]]), Job(["experiment=b"], [[]])]


def test_large_groups_are_split():
    (job,) = plan([([f"seed={s}"], config(seed=s)) for s in range(5)])
    none = [0] * 5
    assert [part.variants for part in job.parts(split(none, none, 2))] == [
        [["seed=0"], ["seed=1"]],
        [["seed=2"], ["seed=3"]],
        [["seed=4"]],
    ]
    with pytest.raises(ValueError, match="max_members=0"):
        split(none, none, 0)


def test_memory_counts_what_stays_of_all_and_what_passes_of_the_largest():
    assert split([10, 10, 10], [5, 50, 5], 32, budget=80) == [3]
    assert split([10, 10, 10], [5, 50, 5], 32, budget=79) == [2, 1]
    assert split([10, 10, 10], [5, 50, 5], 32, budget=1) == [1, 1, 1]  # too large alone: tried all the same


def test_folders_tell_jobs_apart_and_are_safe_names():
    jobs = [
        Job(["layer=1", "dataset=/a/b"], []),
        Job(["layer=2", "dataset=/a/b"], []),
        Job(["layer=2", "dataset=/c d"], []),
    ]
    assert folders(jobs) == ["0_layer=1,dataset=_a_b", "1_layer=2,dataset=_a_b", "2_layer=2,dataset=_c_d"]
    assert folders([Job(["x=1"], []), Job(["x=1"], [])]) == ["0", "1"]


def test_an_experiments_bank_is_swept_as_a_whole_or_replaced():
    bank = [["sae=topk", "k=1"], ["sae=relu"]]
    assert members(bank, ["seed=1", "layer=3"]) == [["sae=topk", "k=1", "seed=1"], ["sae=relu", "seed=1"]]
    assert members(bank, ["k=5"]) == [["k=5"]]
    assert members([], ["layer=3"]) == [[]]
    combinations = [([f"seed={s}"], config(variants=bank)) for s in (0, 1)]
    assert [len(job.variants) for job in plan(combinations)] == [4]


def test_names_are_what_differs():
    assert names([["k=1", "lr=2"], ["k=1", "lr=3"]]) == ["lr=2", "lr=3"]
    assert names([["k=1"]], alone="sae=topk") == ["sae=topk"]
    assert names([["a/b=1"], ["a/b=2"]]) == ["a_b=1", "a_b=2"]
    assert names([["k=1"], ["k=1", "seed=1"]]) == ["k=1", "seed=1"]
    bank = [["freeze=none", "label=trained"], ["freeze=all", "init=tokens", "label=random_vectors"]]
    assert names(members(bank, ["k=5"])) == ["trained", "random_vectors"]
    swept = [variant for seed in "01" for variant in members(bank, [f"seed={seed}"])]
    assert names(swept) == ["trained,seed=0", "random_vectors,seed=0", "trained,seed=1", "random_vectors,seed=1"]
    with pytest.raises(ValueError, match="same settings"):
        names([["k=1"], ["k=1"]])


STUDY = [["freeze=none", "label=trained"], ["freeze=all", "init=random", "label=untrained"]]


def test_a_labelled_study_keeps_its_saes():
    assert members(STUDY, ["init=kmeans", "k=5"]) == [
        ["freeze=none", "label=trained", "init=kmeans", "k=5"],
        ["freeze=all", "init=random", "label=untrained", "k=5"],
    ]
    for key in ("freeze=decoder", "label=mine"):
        with pytest.raises(ValueError, match=f"{key}: no effect, all 2 SAEs .* experiment=none"):
            members(STUDY, [key])
    swept = [variant for init in ("data", "kmeans") for variant in members(STUDY, [f"init={init}"])]
    assert names(swept[:3]) == ["trained,init=data", "untrained", "trained,init=kmeans"]
    (job,) = plan([([f"init={init}"], config(variants=STUDY)) for init in ("data", "kmeans")])
    assert names(job.variants) == ["trained,init=data", "untrained", "trained,init=kmeans"]  # untrained once


def test_saes_that_differ_by_their_label_alone_are_refused():
    with pytest.raises(ValueError, match="same settings"):
        names([["freeze=all", "label=a", "init=random"], ["init=random", "freeze=all", "label=b"]])


def test_jobs_of_one_labelled_sae_are_named_after_its_label():
    parts = plan([(["experiment=nulls", "k=5"], config(k=5, variants=STUDY))])[0].parts([1, 1])
    assert folders(parts) == ["0_trained", "1_untrained"]
    assert describe(parts) == "2 SAEs in 2 jobs: trained x1, untrained x1"


def test_parts_of_one_sae_are_named_after_it():
    (job,) = plan([(["sae=topk", f"k={k}"], config(k=k)) for k in (2, 4)])
    parts = job.parts([1, 1])
    assert folders(parts) == ["0_k=2", "1_k=4"] and describe(parts) == "2 SAEs in 2 jobs: k=2 x1, k=4 x1"
