"""Which jobs a command line becomes, as composed by Hydra: the launcher is replaced by one that writes down its jobs."""

import pytest
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus


@pytest.fixture
def jobs(cli, tiny, monkeypatch):
    """`jobs("-m", "k=1,2")`: (shared overrides that differ, variants) of each job."""
    launched = []

    class Launcher:
        def launch(self, job_overrides, initial_job_idx):
            launched.extend(job_overrides)
            return [JobReturn(status=JobStatus.COMPLETED, _return_value={}) for _ in job_overrides]

    monkeypatch.setattr(Plugins, "instantiate_launcher", lambda *_, **__: Launcher())

    def of(*arguments, fixed=("experiment=none", "layer=1"), verb="train"):
        launched.clear()
        shown = cli(
            verb, f"dataset={tiny}", *fixed, *arguments, "hydra.sweeper.check=false", "hydra.sweeper.rerun=true"
        )
        assert shown.code == 0, shown.text
        given = {f"dataset={tiny}", *fixed}
        return [
            (
                [o for o in job if not o.startswith(("variants=", "hydra.")) and o not in given],
                next(o for o in job if o.startswith("variants=")).removeprefix("variants="),
            )
            for job in launched
        ]

    return of


@pytest.mark.slow
def test_settings_of_an_sae_share_a_job(jobs):
    assert jobs("sae=topk", "-m", "k=16,32") == [([], '[["sae=topk","k=16"],["sae=topk","k=32"]]')]
    assert jobs("-m", "sae=topk,relu") == [([], '[["sae=topk"],["sae=relu"]]')]
    assert jobs("-m", "k=16,32", "sae=batchtopk") == [([], '[["k=16","sae=batchtopk"],["k=32","sae=batchtopk"]]')]


@pytest.mark.slow
def test_members_have_the_settings_that_they_use(jobs):
    """A setting that one architecture lacks makes no further members of it; two settings of one member make one."""
    mixed = jobs("-m", "sae=topk,jumprelu", "k=16,32", "l0_target=8,9")
    assert mixed[0][1] == (
        '[["sae=topk","k=16"],["sae=topk","k=32"],["sae=jumprelu","l0_target=8"],["sae=jumprelu","l0_target=9"]]'
    )
    assert jobs("-m", "d_sae=null,64", "expansion=2")[0][1] == '[["d_sae=null","expansion=2"],["d_sae=64"]]'
    apart = jobs("-m", "sae=topk,jumprelu", "k=16", "l0_target=8", "hydra.sweeper.max_members=1")
    assert [variants for _, variants in apart] == ['[["sae=topk","k=16"]]', '[["sae=jumprelu","l0_target=8"]]']
    fitted = jobs("-m", "baseline=pca,kmeans", "n_latents=8,9", "seed=0,1", fixed=("layer=1",), verb="fit")
    assert fitted[0][1].count("pca") == 1 and fitted[0][1].count("kmeans") == 4


@pytest.mark.slow
def test_a_setting_may_be_for_one_of_several_experiments(jobs):
    found = jobs("-m", "experiment=relu_dinov2,topk_bioclip2", "k=16", fixed=("layer=1",))
    assert "k=16" not in found[0][1] and "k=16" in found[1][1]


@pytest.mark.slow
def test_ranges_choices_and_globs_are_expanded(jobs):
    assert (
        jobs("sae=topk", "-m", "k=range(2,7,2)")[0][1] == '[["sae=topk","k=2"],["sae=topk","k=4"],["sae=topk","k=6"]]'
    )
    assert jobs("-m", "lr=choice(1e-3,1e-4)") == jobs("-m", "lr=1e-3,1e-4")
    (one,) = jobs("-m", "objective=glob(*)")
    assert one[1].count("objective=") == 3 and "objective=matryoshka_random" in one[1]


@pytest.mark.slow
def test_what_the_stream_depends_on_makes_a_job_each(jobs):
    found = jobs("sae=topk", "k=2,4", "-m", "layer=1,2", fixed=("experiment=none",))
    assert [shared for shared, _ in found] == [["layer=1"], ["layer=2"]]
    assert {variants for _, variants in found} == {'[["sae=topk","k=2"],["sae=topk","k=4"]]'}
    assert len(jobs("sae=relu", "-m", "normalise=scalar,none", "sparsity=1e-3,1e-4")) == 2


@pytest.mark.slow
def test_experiments_make_a_job_each(jobs):
    found = jobs("-m", "experiment=relu_dinov2,topk_bioclip2", "seed=0,1", fixed=("layer=1",))
    assert [shared[0] for shared, _ in found if shared] == ["experiment=relu_dinov2", "experiment=topk_bioclip2"]
    assert all(variants.count("seed=") == 2 for _, variants in found)


def test_the_configurations_own_sweep_counts(jobs):
    assert jobs("sae=topk", "-m", "+hydra.sweeper.params={k:'3,5'}")[0][1] == '[["k=3","sae=topk"],["k=5","sae=topk"]]'


def test_values_with_odd_characters_arrive_as_they_were_typed(jobs):
    (job,) = jobs(
        "-m", "k=16,32", "sae=topk", "tags=['a b','c,d=e']", 'hydra.sweep.dir="${paths.outputs}/odd [1], a=b"'
    )
    assert job[0] == ["tags=['a b','c,d=e']"]
