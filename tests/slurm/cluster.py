"""A real Slurm on one node: slurmctld, slurmd and munge on loopback and free ports, all their files in one folder.

No systemd, cgroups or accounting. By hand: `python tests/slurm/cluster.py FOLDER`, then `export SLURM_CONF=FOLDER/slurm.conf`;
Ctrl-C stops it.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "munged")
CPUS = 4  # that Slurm believes in: the tests' jobs wait more than they compute


class Unavailable(Exception):
    """There can be no cluster here, and why."""


def install() -> None:
    """See that Slurm is installed: by apt, where it is missing; Unavailable where that cannot be."""
    if not sys.platform.startswith("linux"):
        raise Unavailable("Slurm runs on Linux")
    if os.geteuid() != 0:
        raise Unavailable("slurmd has to be started by root")
    if all(shutil.which(program) for program in PROGRAMS):
        return
    if shutil.which("apt-get") is None:
        raise Unavailable("Slurm is not installed, and there is no apt-get to install it")
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(command, env=quiet, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise Unavailable(f"{' '.join(command)}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")


def configuration(folder: Path, host: str, ports: tuple[int, int]) -> str:
    """slurm.conf. Jobs that are requeued start again within seconds (cred_expire), and die a second after TERM (KillWait)."""
    settings = {
        "ClusterName": "tests",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": ports[0],
        "SlurmdPort": ports[1],
        "CommunicationParameters": "NoInAddrAny,NoCtldInAddrAny",  # loopback alone
        "SlurmUser": "root",
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={folder}/munge.sock,cred_expire=5",
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool",
        "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "slurmd.pid",
        "SlurmctldLogFile": folder / "slurmctld.log",
        "SlurmdLogFile": folder / "slurmd.log",
        "SlurmdParameters": "config_overrides",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "JobAcctGatherType": "jobacct_gather/none",
        "AccountingStorageType": "accounting_storage/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU",
        "MpiDefault": "none",
        "ReturnToService": 2,
        "KillWait": 1,
        "JobRequeue": 0,  # as on clusters that requeue only what asks for it
        "SchedulerParameters": "sched_interval=1,sched_min_interval=0,batch_sched_delay=0",
    }
    nodes = [f"NodeName={host} NodeAddr=127.0.0.1 CPUs={CPUS}", f"PartitionName=all Nodes={host} Default=YES"]
    return "\n".join([*(f"{key}={value}" for key, value in settings.items()), *nodes, ""])


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Path]:
    """The path of slurm.conf, while the cluster is up; Unavailable where it does not come up."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    key, conf = folder / "munge.key", folder / "slurm.conf"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    conf.write_text(configuration(folder, socket.gethostname().partition(".")[0], free_ports()))
    munge = {"key-file": key, "socket": folder / "munge.sock", "pid-file": folder / "munged.pid"}
    munge |= {"log-file": folder / "munged.log", "seed-file": folder / "munge.seed"}
    environment = os.environ | {"SLURM_CONF": str(conf)}
    try:
        for command in (["munged", "--force", *(f"--{k}={v}" for k, v in munge.items())], ["slurmctld"], ["slurmd"]):
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
            if done.returncode:
                raise Unavailable(f"{command[0]} does not start: {done.stderr.strip()}")
        until_idle(environment)
        yield conf
    finally:
        subprocess.run(["scancel", "--user=root"], env=environment, capture_output=True)
        for name in ("slurmd", "slurmctld", "munged"):
            stop(folder / f"{name}.pid")


def free_ports() -> tuple[int, int]:
    """Two ports of loopback that nobody listens on."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def until_idle(environment: dict[str, str], seconds: float = 30) -> None:
    """Wait until the node takes jobs; Unavailable where it does not."""
    deadline, said = time.monotonic() + seconds, ""
    while time.monotonic() < deadline:
        said = subprocess.run(["sinfo", "-ho", "%t"], env=environment, capture_output=True, text=True).stdout.strip()
        if said == "idle":
            return
        time.sleep(0.1)
    raise Unavailable(f"the node has not become idle within {seconds} s, but {said or 'unknown'}")


def stop(pid_file: Path, seconds: float = 10) -> None:
    """End the daemon whose number is in the file, and see it gone."""
    if not pid_file.is_file():
        return
    pid, deadline = int(pid_file.read_text()), time.monotonic() + seconds
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.05)


if __name__ == "__main__":
    install()
    with cluster(Path(sys.argv[1]).absolute()) as conf, contextlib.suppress(KeyboardInterrupt):
        print(f"export SLURM_CONF={conf}")
        signal.pause()
