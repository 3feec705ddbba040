"""A Slurm of one node, from packages that tests/cluster/run has unpacked into a folder."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil

_CONFIG = """
ClusterName=tiny
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A job whose node died starts again once its credential has expired.
AuthInfo=socket={folder}/munge/socket,cred_expire=10
CredType=cred/munge
PluginDir={library}/slurm-wlm
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=1,sched_interval=2
# A node that does not answer is down after so many seconds, and up again when it answers.
SlurmdTimeout=10
ReturnToService=2
MinJobAge=3600
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory}
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Cluster:
    """Controller and node, both on this machine, while a `with` block lasts.

    Attributes
    ----------
    clients : Path
        Folder of sbatch, squeue and the others, which find this cluster and need nothing in the environment: the plugin takes
        all of Slurm's variables from jobs.
    """

    def __init__(self, folder: Path):
        self.folder, self._root = folder, folder / "root"
        self._library = next(self._root.glob("usr/lib/*-linux-gnu"))
        self.clients = folder / "clients"
        libraries = f"{self._library}:{self._library}/slurm-wlm"
        self._environment = os.environ | {
            "LD_LIBRARY_PATH": libraries,
            "SLURM_CONF": str(folder / "slurm.conf"),
        }

    def __enter__(self) -> Cluster:
        self._configure()
        munge = self.folder / "munge"
        names = ("socket", "pid-file", "log-file", "seed-file")
        options = [f"--{name}={munge}/{name.removesuffix('-file')}" for name in names]
        try:
            self._run("usr/sbin/munged", f"--key-file={self.folder}/munge.key", *options)
            self._run("usr/sbin/slurmctld-wlm")
            self.start_node()
            self._wait_for("idle")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_node()
        for process in self._daemons("slurmctld", "munged"):
            process.kill()

    def start_node(self) -> None:
        (self.folder / "spool").mkdir()
        self._run("usr/sbin/slurmd-wlm", "-d", str(self._root / "usr/sbin/slurmstepd-wlm"))

    def kill_node(self) -> int:
        """SIGKILL to all that runs on the node, as if its power went; how many processes of jobs that were."""
        steps = self._daemons("slurmstepd")
        jobs = [child for one in steps for child in one.children(recursive=True)]
        dying = [*self._daemons("slurmd"), *steps, *jobs]
        for process in dying:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(dying, timeout=10)
        # It was in the memory of the node. Slurm 22.05 holds a job back of which a node that comes back has kept the script.
        shutil.rmtree(self.folder / "spool", ignore_errors=True)
        return len(jobs)

    def states(self) -> dict[str, str]:
        """The state of every job, also of those that have ended."""
        said = self.says("squeue", "--states=all", "-ho", "%i %T")
        return dict(line.split() for line in said.splitlines())

    def says(self, *command: str) -> str:
        """What a client prints."""
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=os.environ | {"PATH": self.path()},
            check=True,
        )
        return done.stdout.strip()

    def path(self) -> str:
        return f"{self.clients}:{os.environ['PATH']}"

    def wait_for_death(self) -> None:
        """Until the controller has noticed that the node does not answer."""
        self._wait_for("down")

    def _wait_for(self, state: str) -> None:
        deadline = time.monotonic() + 90
        while state not in self.says("sinfo", "-ho", "%T"):
            assert time.monotonic() < deadline, f"the node is not {state}; see {self.folder}/slurm*.log"
            time.sleep(0.5)

    def _configure(self) -> None:
        for name in ("munge", "state", "clients"):
            shutil.rmtree(self.folder / name, ignore_errors=True)  # of an earlier trial
            (self.folder / name).mkdir()
        # Munge wants its socket to be within everybody's reach, and its key within nobody's.
        self.folder.chmod(0o755)
        key = self.folder / "munge.key"
        key.unlink(missing_ok=True)
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        (self.folder / "slurm.conf").write_text(
            _CONFIG.format(
                host=socket.gethostname().partition(".")[0],
                ports=_free_ports(2),
                user=psutil.Process().username(),
                folder=self.folder,
                library=self._library,
                cores=len(os.sched_getaffinity(0)),
                memory=psutil.virtual_memory().total * 9 // 10 >> 20,
            )
        )
        kept = " ".join(f"{name}={self._environment[name]}" for name in ("LD_LIBRARY_PATH", "SLURM_CONF"))
        for client in self._root.glob("usr/bin/s*"):
            script = self.clients / client.name
            script.write_text(f'#!/bin/sh\n{kept} exec {client} "$@"\n')
            script.chmod(0o755)

    def _run(self, program: str, *arguments: str) -> None:
        """Start a daemon, which returns once it is ready to be asked."""
        subprocess.run([self._root / program, *arguments], env=self._environment, check=True)

    def _daemons(self, *names: str) -> list[psutil.Process]:
        """The processes of this folder's programs of these names, as Debian calls them."""
        programs = {str(self._root / f"usr/sbin/{name}{end}") for name in names for end in ("", "-wlm")}
        return [one for one in psutil.process_iter(["exe"]) if one.info["exe"] in programs]
