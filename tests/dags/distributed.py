"""Airflow as companies run it: metadata in Postgres, tasks by Celery over Redis, each process as on a host of its own.

The processes share the environment that `dags/README.md` asks for, the metadata's database, the broker and the
company's disk. Each has a home of its own, so that logs of tasks lie where they ran.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
from base64 import urlsafe_b64encode
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.dags.server import Api, descendants
from tests.support.airflow import DAGS, clean_environment
from tests.support.waiting import can_connect, free_port, until

POOLS = ("funnel_spark", "funnel_gpu", "funnel_publish")
COMPONENTS = {
    "api-server": (),
    "scheduler": ("--skip-serve-logs",),
    "dag-processor": (),
    # No task of ours is deferred.
    "triggerer": ("--skip-serve-logs",),
}


class Redis:
    """A broker that keeps nothing on disk."""

    def __init__(self) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("no Redis on this machine; `make services` installs Debian's where it may")
        self.port = free_port()
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        self._server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        until(lambda: can_connect("127.0.0.1", self.port), seconds=60)

    @property
    def address(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def stop(self) -> None:
        self._server.kill()
        self._server.wait(60)


class DistributedAirflow(Api):
    """A running Airflow of several hosts.

    Args:
        config: the funnel's, on a disk that all see.
        home: the folder of the hosts' homes.
        database: SQLAlchemy's address of an empty Postgres database.
        broker: Celery's.
        zone: the funnel's.
        workers: the queue of each Celery worker, by its host.
    """

    def __init__(
        self, config: Path, home: Path, *, database: str, broker: str, zone: str, workers: dict[str, str]
    ) -> None:
        super().__init__(free_port())
        self.home, self._workers = home, workers
        self._passwords = home / "passwords.json"
        self._variables = {
            "FUNNEL_CONFIG": str(config),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "AIRFLOW__CORE__DEFAULT_TIMEZONE": zone,
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__HOSTNAME_CALLABLE": "airflow.utils.net.get_host_ip_address",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.address}/execution/",
            "AIRFLOW__CORE__FERNET_KEY": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self._passwords),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
            "AIRFLOW__CELERY__BROKER_URL": broker,
            "AIRFLOW__CELERY__RESULT_BACKEND": f"db+{database}",
            "AIRFLOW__CELERY__WORKER_CONCURRENCY": "2",
            "AIRFLOW__API__BASE_URL": self.address,
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__SECRET_KEY": secrets.token_hex(16),
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "False",
            # A task whose host has died is tried again this soon.
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "40",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
        }
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        self._run("db", "migrate")
        for pool in POOLS:
            self._run("pools", "set", pool, "2" if pool == "funnel_spark" else "1", "")
        for name, options in COMPONENTS.items():
            self._start(name, name, *options)
        for name in self._workers:
            self.start_worker(name)
        self.until(self._is_healthy, seconds=600, what="Airflow to answer")
        self.log_in(self._passwords)

    def start_worker(self, name: str) -> None:
        """Start a Celery worker; one at most serves its logs, since all share this machine's port."""
        quiet = [] if name == next(iter(self._workers)) else ["--skip-serve-logs"]
        self._start(
            name, "celery", "worker", "--queues", self._workers[name], "--celery-hostname", f"{name}@%h", *quiet
        )

    def kill_worker(self, name: str) -> None:
        """SIGKILL all that runs on a worker's host."""
        worker = self._running.pop(name)
        for pid in descendants(self.home / name):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        worker.wait(60)

    def tasks_of(self, worker: str) -> set[str]:
        """The tasks whose logs lie on a worker's host."""
        logs = (self.home / worker / "logs").rglob("task_id=*")
        return {path.name.removeprefix("task_id=") for path in logs}

    def require_alive(self) -> None:
        for name, process in self._running.items():
            assert process.poll() is None, f"{name} ended: {self._printed(name)}"

    def stop(self) -> None:
        for number, seconds in ((signal.SIGTERM, 20), (signal.SIGKILL, 20)):
            for process in self._running.values():
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
            for process in self._running.values():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(seconds)
        for pid in descendants(self.home):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _environment(self, host: str) -> dict[str, str]:
        own = self.home / host
        own.mkdir(exist_ok=True)
        environment = clean_environment(own) | self._variables
        if host == "api-server":
            # Its plugin imports what the DAGs share.
            environment["PYTHONPATH"] = os.pathsep.join([str(DAGS), environment["PYTHONPATH"]])
        return environment

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            ["airflow", *command], env=self._environment("setup"), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]

    def _start(self, name: str, *command: str) -> None:
        with (self.home / f"{name}.log").open("ab") as output:
            self._running[name] = subprocess.Popen(
                ["airflow", *command],
                env=self._environment(name),
                cwd=self.home / name,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _printed(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text(encoding="utf-8")[-3_000:]

    def _is_healthy(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/api/v2/monitor/health", timeout=5) as answer:
                health = answer.read().decode()
        except (URLError, OSError):
            return False
        # Of the metadata, the scheduler, the DAG processor and the triggerer.
        return health.count('"healthy"') == 4
