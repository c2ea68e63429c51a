"""One Slurm cluster for the session, where there can be one."""

import os
from collections.abc import Iterator

import pytest
from slurm.cluster import Unavailable, cluster, install


@pytest.fixture(scope="session")
def slurm_conf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The path of a running cluster's slurm.conf, for SLURM_CONF."""
    try:
        install()
        with cluster(tmp_path_factory.mktemp("slurm") / "cluster") as conf:
            yield str(conf)
    except Unavailable as reason:
        pytest.skip(f"no Slurm here: {reason}")


@pytest.fixture
def slurm_cluster(slurm_conf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of this test and of its child processes go to the session's cluster."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_", "SUBMITIT_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_CONF", slurm_conf)
