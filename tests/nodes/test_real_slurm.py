"""`slurm run` on a real Slurm: a controller and two nodes on this machine, made for these tests and ended with them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
SECONDS = 1800.0
NEEDED = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "sinfo")
CASE = ("--tp", "2", "--set", "num_layers=1", "--set", "first_k_dense_replace=1", "--steps", "0")
CONF = """ClusterName=plumbline
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MailProg=/bin/true
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus}
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there is no Slurm here, None if there can be one."""
    absent = [name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if absent:
        return f"{', '.join(absent)}: not installed (apt-get install slurm-wlm munge)"
    return None if os.geteuid() == 0 else "only root starts Slurm's daemons"


pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")


@dataclass(frozen=True)
class Cluster:
    """Where its files lie."""

    folder: Path

    @property
    def variables(self) -> dict[str, str]:
        """By which Slurm's commands find it."""
        cache = str(self.folder / "cache")
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf"), "PLUMBLINE_CACHE": cache}

    def ask(self, *words: str) -> str:
        """What a command of Slurm's prints."""
        return subprocess.run(words, env=self.variables, capture_output=True, text=True, check=True, timeout=SECONDS).stdout

    def start(self, words: Sequence[str], results: Path) -> subprocess.Popen[str]:
        """`slurm run` with the words of a run."""
        command = [sys.executable, "-m", "validation", "slurm", "run", "--folder", str(self.folder / "jobs"), "--"]
        return subprocess.Popen(
            [*command, *words, "--results", str(results)],
            cwd=ROOT,
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def until(condition: str, cluster: Cluster, *words: str) -> None:
    """Until a command prints this; the controller may not answer yet."""
    end, said = time.monotonic() + SECONDS, ""
    while condition not in said:
        assert time.monotonic() < end, said
        time.sleep(0.1)
        with contextlib.suppress(subprocess.CalledProcessError):
            said = cluster.ask(*words)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two idle nodes."""
    folder = tmp_path_factory.mktemp("slurm")
    found = Cluster(folder)
    (folder / "state").mkdir()
    host = socket.gethostname().partition(".")[0]
    ports = [free_port() for _ in range(3)]
    conf = CONF.format(host=host, folder=folder, ports=ports, cpus=os.cpu_count())
    (folder / "slurm.conf").write_text(conf)
    subprocess.run(["mungekey", "--create", f"--keyfile={folder}/munge.key"], check=True)
    munge = [f"--key-file={folder}/munge.key", f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid"]
    munge += [f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed", "--force", "--foreground"]
    commands = [["munged", *munge], ["slurmctld", "-D"], ["slurmd", "-D", "-N", "n1"], ["slurmd", "-D", "-N", "n2"]]
    variables = {**found.variables, "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    with contextlib.ExitStack() as stack, (folder / "daemons.log").open("w") as log:
        for command in commands:
            process = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            while command[0] == "munged" and not (folder / "munge.socket").exists():
                assert process.poll() is None, (folder / "daemons.log").read_text()
                time.sleep(0.02)
        until("2 idle", found, "sinfo", "--noheader", "--format=%D %t")
        yield found


def test_a_run_on_two_nodes_passes_and_its_report_is_here(cluster: Cluster, tmp_path: Path) -> None:
    """Progress is printed, and the job's folder is gone."""
    process = cluster.start(CASE, tmp_path / "results")
    said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said
    assert "Slurm job " in said
    assert "Overall result: PASS" in said
    assert "1 report in " in said
    (report,) = (tmp_path / "results").glob("*.xml")
    assert 'name="nodes" value="node 0 ' in report.read_text()
    assert list((cluster.folder / "jobs").iterdir()) == []


def test_the_runs_exit_code_is_handed_on(cluster: Cluster, tmp_path: Path) -> None:
    """Of a case that is impossible, which node 0 says."""
    process = cluster.start(("--tp", "3"), tmp_path / "results")
    said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 2, said
    assert "tp3 does not divide" in said


def test_an_interrupt_cancels_the_job(cluster: Cluster, tmp_path: Path) -> None:
    """It has not started: the nodes are held."""
    cluster.ask("scontrol", "update", "nodename=n1", "state=drain", "reason=held")
    try:
        process = cluster.start(CASE, tmp_path / "results")
        until("PENDING", cluster, "squeue", "--noheader", "--format=%T")
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=SECONDS)
    finally:
        cluster.ask("scontrol", "update", "nodename=n1", "state=resume")
    assert process.returncode == 130, said
    assert "was cancelled" in said
    assert cluster.ask("squeue", "--noheader").strip() == ""
    assert not (tmp_path / "results").exists()
