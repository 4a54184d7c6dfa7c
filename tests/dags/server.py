"""A real Airflow for the tests, started like `make airflow` and driven through its API; a webhook for its alerts."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx

from tests.support.airflow import DAGS, clean_environment
from tests.support.waiting import free_port


class Webhook:
    """A server that keeps the alerts it receives."""

    def __init__(self, status: int = 200) -> None:
        self.received: list[str] = []
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.append(json.loads(body)["text"])
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}/told"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Api:
    """What a running Airflow answers to a person who has logged in."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.address = f"http://localhost:{port}"

    def log_in(self, passwords: Path) -> None:
        """Log in as the administrator, whose password Airflow has made up."""
        self.password: str = json.loads(passwords.read_text(encoding="utf-8"))["admin"]
        login = {"username": "admin", "password": self.password}
        token = httpx.post(f"{self.address}/auth/token", json=login, timeout=60).json()["access_token"]
        self._client = httpx.Client(
            base_url=f"{self.address}/api/v2", headers={"Authorization": f"Bearer {token}"}, timeout=60
        )

    def require_alive(self) -> None:
        """Fail the test if a process has ended that should not have."""

    def get(self, path: str, **query: Any) -> Any:
        answer = self._client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, **body: Any) -> Any:
        """Return the server's answer, an error included."""
        return self._client.post(path, json=body).json()

    def patch(self, path: str, **body: Any) -> None:
        answer = self._client.patch(path, json=body)
        assert answer.status_code == 200, answer.text

    def runs(self, dag_id: str = "funnel_nightly") -> list[dict[str, Any]]:
        found = self.get(f"/dags/{dag_id}/dagRuns", limit=100, order_by="run_after")
        runs: list[dict[str, Any]] = found["dag_runs"]
        return runs

    def tasks(self, run: dict[str, Any]) -> dict[str, dict[str, Any]]:
        found = self.get(f"/dags/{run['dag_id']}/dagRuns/{run['dag_run_id']}/taskInstances")
        return {task["task_id"]: task for task in found["task_instances"]}

    def log(self, run: dict[str, Any], task_id: str, attempt: int = 1) -> str:
        path = f"/dags/{run['dag_id']}/dagRuns/{run['dag_run_id']}/taskInstances/{task_id}/logs/{attempt}"
        return json.dumps(self.get(path)["content"])

    def until(self, is_true: Callable[[], Any], *, seconds: float, what: str) -> Any:
        """Wait until `is_true` returns a true value, and return it.

        Raises:
            AssertionError: it stayed false until the time limit, or Airflow exited.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if answer := is_true():
                return answer
            self.require_alive()
            time.sleep(1)
        raise AssertionError(f"waited {seconds} s for {what}")


class Airflow(Api):
    """A running Airflow over one funnel, as `make airflow` starts it."""

    def __init__(self, config: Path, home: Path, **variables: str) -> None:
        super().__init__(free_port())
        self.home = config.parent / "airflow"
        self._output = (home / "printed.log").open("w+", encoding="utf-8")
        # `dags/standalone.py` sets Airflow's home and folders, not the other tests' environment.
        environment = {name: value for name, value in clean_environment(home).items() if "AIRFLOW" not in name}
        self._process = subprocess.Popen(
            [sys.executable, str(DAGS / "standalone.py"), str(config), "--port", str(self.port)],
            env=environment | variables,
            cwd=home,
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )
        self.until(lambda: "login:" in self.printed, seconds=600, what="Airflow to answer")
        self.log_in(self.home / "simple_auth_manager_passwords.json.generated")

    @property
    def printed(self) -> str:
        return Path(self._output.name).read_text(encoding="utf-8")

    def require_alive(self) -> None:
        assert self._process.poll() is None, f"Airflow ended: {self.printed}"

    def components(self) -> dict[str, int]:
        """The processes that `dags/standalone.py` has started, by what they are."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text(encoding="utf-8")
        commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in children.split()}
        names = ("api_server", "api-server", "scheduler", "dag-processor", "triggerer")
        return {name.replace("_", "-"): pid for pid, told in commands.items() for name in names if name in told}

    def processes(self) -> list[int]:
        """The components with their children; each component leads a session of its own."""
        sessions = set(self.components().values())
        return [int(each.name) for each in Path("/proc").glob("[0-9]*") if _session(each) in sessions]

    def wait(self, seconds: float) -> int:
        """The exit code, once it has ended by itself."""
        return self._process.wait(seconds)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(180)
        finally:
            self._process.kill()
            self._output.close()


def descendants(folder: Path) -> list[int]:
    """Find processes whose environment names a folder: Airflow, its tasks and their JVMs."""
    needle = str(folder).encode()
    found = []
    for each in Path("/proc").iterdir():
        try:
            if each.name.isdigit() and needle in (each / "environ").read_bytes() and int(each.name) != os.getpid():
                found.append(int(each.name))
        except OSError:
            continue
    return found


def _session(process: Path) -> int:
    try:
        return int((process / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[3])
    except OSError:
        return 0


def listening(pids: list[int]) -> set[str]:
    """The addresses at which these processes listen, as the kernel writes them; 0100007F is 127.0.0.1."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes.add(str(link.readlink()))
            except OSError:
                continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text(encoding="utf-8").splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in inodes:
                found.add(local.partition(":")[0])
    return found
