"""A Postgres of the tests' own: Debian's programs on a free port of 127.0.0.1, over a folder that goes at the end."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

USER, PASSWORD = "funnel", "s3cret"


class Postgres:
    """A server that can be stopped and started again; it keeps what it has been told."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        # Not in pytest's folder, which is for root alone, while Postgres refuses to be root.
        self.folder = Path(tempfile.mkdtemp(prefix="funnelcast-postgres-"))
        self.port = free_port()
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = _some_user()
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        password = self.folder / "password"
        password.write_text(PASSWORD, encoding="utf-8")
        password.chmod(0o644)
        self._data = self.folder / "data"
        self._server: subprocess.Popen[bytes] | None = None
        made = self._run("initdb", "-D", self._data, "-U", USER, f"--pwfile={password}", "-A", "scram-sha-256", "-N")
        assert made.returncode == 0, made.stderr
        self.start()

    def start(self) -> None:
        """Start it, unless it is running, and wait until it answers."""
        if self._server is not None:
            return
        settings = [f"port={self.port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"]
        options = [each for setting in settings for each in ("-c", setting)]
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, *options],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                **self._as,
            )
        for _ in range(200):
            if self._run("pg_isready", "-h", "127.0.0.1", "-p", str(self.port)).returncode == 0:
                return
            time.sleep(0.05)
        raise AssertionError((self.folder / "log").read_text(encoding="utf-8")[-2_000:])

    def stop(self) -> None:
        """Stop it at once, as a crash would; what was committed stays."""
        if self._server is not None:
            self._server.send_signal(3)
            self._server.wait(30)
            self._server = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def uri(self, database: str, *, password: str = PASSWORD) -> str:
        return f"postgresql+psycopg2://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def create_database(self) -> str:
        """The address of a database of its own."""
        name = f"d{uuid.uuid4().hex[:12]}"
        self.execute("postgres", f"CREATE DATABASE {name}")
        return self.uri(name)

    def execute(self, database: str, statement: str) -> None:
        from sqlalchemy import create_engine, text

        engine = create_engine(self.uri(database), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()

    def _run(self, program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._programs / program, *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            **self._as,
        )


def find_programs() -> Path | None:
    """The folder of the newest Postgres on this machine; None without one."""
    on_path = shutil.which("initdb")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = Path(on_path) if on_path else debian[-1] if debian else None
    return found.resolve().parent if found else None


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _some_user() -> pwd.struct_passwd:
    """Somebody who is not root."""
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")
