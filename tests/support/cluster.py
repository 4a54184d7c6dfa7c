"""A Spark cluster on this machine: a master and workers, whose executors share as little with the driver as they can.

They work in folders of their own and run an interpreter that has the libraries which the page names, and nothing of
ours. Where the tests may make mounts, they do not see the driver's temporary files either.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import distribution
from pathlib import Path

import psutil
import pyspark
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.waiting import can_connect, free_port, until

LIBRARIES = ("numpy", "pyarrow", "safetensors", "torch", "tqdm")
"""What executors need beside Python and Spark, as pipeline/README.md says; pip brings what these need."""
HIDE = 'mount -t tmpfs none "$1" && shift && exec "$@"'
"""Starts a command that sees an empty folder in place of the driver's."""
WORKER_MEMORY = "1g"


@dataclass
class Cluster:
    """A running cluster.

    Args:
        folder: where it keeps its files.
        python: the executors' interpreter.
    """

    folder: Path
    python: Path
    master: subprocess.Popen[bytes] = field(init=False)
    url: str = field(init=False)
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def driver_disk(self) -> Path:
        """What the driver takes for its temporary files, and workers do not see."""
        return self.folder / "driver"

    def start(self, workers: int) -> None:
        self.driver_disk.mkdir(parents=True)
        host, port = "127.0.0.1", free_port()
        self.url = f"spark://{host}:{port}"
        self.master = self._run(
            "master", ["org.apache.spark.deploy.master.Master", "--host", host, "--port", str(port)]
        )
        until(lambda: can_connect(host, port), seconds=120)
        for _ in range(workers):
            self.add_worker()

    def add_worker(self) -> None:
        """Start a worker with one core, and wait until the master knows it."""
        name = f"worker-{len(self.workers)}"
        known = len(self._log("master").read_text(encoding="utf-8").split("Registering worker"))
        command = ["org.apache.spark.deploy.worker.Worker", "--host", "127.0.0.1", "--cores", "1"]
        command += ["--memory", WORKER_MEMORY, "-d", str(self.folder / name), self.url]
        self.workers.append(self._run(name, command))
        until(
            lambda: len(self._log("master").read_text(encoding="utf-8").split("Registering worker")) > known,
            seconds=120,
        )

    def kill_worker(self) -> None:
        """SIGKILL the oldest worker that runs, and its executors, as a machine that fails does."""
        worker = next(each for each in self.workers if each.poll() is None)
        processes = processes_under(worker.pid)
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        worker.wait(timeout=60)

    def processes(self) -> list[psutil.Process]:
        """What runs on the workers: executors and their Python."""
        return [each for worker in self.workers if worker.poll() is None for each in processes_under(worker.pid)[1:]]

    def stop(self) -> None:
        for each in (*self.workers, self.master):
            for process in processes_under(each.pid):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            each.wait(timeout=60)

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _run(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        home = Path(pyspark.__file__).parent
        work = self.folder / name
        work.mkdir()
        started = [str(home / "bin" / "spark-class"), *command, "--webui-port", "0"]
        if name != "master" and can_mount():
            started = ["unshare", "--mount", "sh", "-c", HIDE, "sh", str(self.driver_disk), *started]
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYSPARK", "PYTHON", "SPARK"))}
        with self._log(name).open("wb") as log:
            return subprocess.Popen(
                started,
                cwd=work,
                # Their `python3` is what a cluster's machines have.
                env=kept
                | {"SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1"}
                | {"PATH": f"{self.python.parent}{os.pathsep}{os.environ['PATH']}"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )


@contextmanager
def run_cluster(folder: Path, *, workers: int = 2, libraries: Sequence[str] = LIBRARIES) -> Iterator[Cluster]:
    """A cluster for as long as the block lasts."""
    cluster = Cluster(folder, make_python(folder / "python", libraries))
    try:
        cluster.start(workers)
        yield cluster
    finally:
        cluster.stop()


def make_python(folder: Path, libraries: Sequence[str]) -> Path:
    """A virtual environment that has these libraries, of those that the tests run with, and what they require."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    installed = Path(sysconfig.get_path("purelib"))
    for name in _with_required(libraries):
        for top in {
            path.parts[0] for path in distribution(name).files or () if path.parts[0] not in ("..", "__pycache__")
        }:
            (packages / top).symlink_to(installed / top)
    return folder / "bin" / "python3"


def _with_required(names: Iterable[str]) -> set[str]:
    """Distributions, and those that they require, directly or through others, by their canonical names."""
    found: set[str] = set()
    ahead = list(names)
    while ahead:
        name = canonicalize_name(ahead.pop())
        if name not in found:
            found.add(name)
            required = map(Requirement, distribution(name).requires or ())
            ahead += [each.name for each in required if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


def can_mount() -> bool:
    """Whether processes can be given a view of the disk of their own."""
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def processes_under(pid: int) -> list[psutil.Process]:
    """A process and all that it has started, the oldest first; none if it is gone."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
