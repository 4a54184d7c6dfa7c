"""An MLflow server of the tests' own: its database on Postgres, the artifacts proxied, on a free port of 127.0.0.1."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import requests

from tests.support.postgres import Postgres, free_port


class MlflowServer:
    """A server that can be stopped and started again, over the same database and folder."""

    def __init__(self, database: Postgres, folder: Path) -> None:
        self._database, self.folder, self._port = database.create_database(), folder, free_port()
        self._server: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it, unless it is running, and wait until it answers."""
        if self._server is not None:
            return
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--workers", "1", "--backend-store-uri", self._database]
        command += ["--serve-artifacts", "--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
                start_new_session=True,
            )
        until = time.monotonic() + 300
        while not self._answers():
            assert self._server.poll() is None and time.monotonic() < until, (self.folder / "log").read_text()
            time.sleep(0.2)

    def stop(self) -> None:
        if self._server is not None:
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait(30)
            self._server = None

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.uri}/health", timeout=5).ok
        except requests.RequestException:
            return False
