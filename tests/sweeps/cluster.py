"""A Slurm of one node, started and stopped by a test as root (Debian: apt install slurm-wlm munge), in one folder."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")

# A container has neither cgroups to write nor a database to account in.
CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
MinJobAge=300
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be no Slurm here, in a sentence."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"{absent[0]} is not installed: apt-get install slurm-wlm munge"
    return None if os.getuid() == 0 else "Slurm's daemons are started as root"


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Start it; gives the variables that its commands need.

    Args:
        folder: empty; sockets, states and logs go there.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(secrets.token_bytes(128))
    host = socket.gethostname().split(".")[0]
    ports = {name: _free_port() for name in ("controller", "daemon")}
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=host, folder=folder, cpus=os.cpu_count(), **ports))
    variables = {"SLURM_CONF": str(conf)}
    munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    with ExitStack() as daemons:
        for command in (
            ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munge],
            ["slurmctld", "-D", "-i"],
            ["slurmd", "-D", "-N", host],
        ):
            daemons.enter_context(_daemon(command, folder, variables))
        _wait_for("idle", ["sinfo", "--noheader", "--format=%T"], variables)
        try:
            yield variables
        finally:  # what a test that failed has left running would outlive the daemons
            subprocess.run(["scancel", "--me"], env={**os.environ, **variables}, check=True)
            _wait_for("", ["squeue", "--noheader"], variables)


@contextmanager
def _daemon(command: list[str], folder: Path, variables: dict[str, str]) -> Iterator[None]:
    with (folder / f"{command[0]}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **variables})
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(answer: str, question: list[str], variables: dict[str, str]) -> None:
    said = ""
    for _ in range(120):
        asked = subprocess.run(question, env={**os.environ, **variables}, capture_output=True, text=True)
        said = asked.stdout.strip() or asked.stderr.strip()
        if said == answer:
            return
        time.sleep(0.5)
    raise TimeoutError(f"{' '.join(question)} says {said}, not {answer}")


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
