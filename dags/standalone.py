"""Start a real Airflow for one funnel: python dags/standalone.py FUNNEL.toml [--port 8080]

Its home, database and logs are in `airflow/` next to the configuration, for their owner alone, and it listens on
127.0.0.1. It is for one machine; `dags/README.md` says how to deploy the same DAGs to a production Airflow.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from pipeline.config.settings import load
from pipeline.errors import FunnelError

DAGS = Path(__file__).resolve().parent
HOST = "127.0.0.1"
AUTH_MANAGER = "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
PASSWORDS = "simple_auth_manager_passwords.json.generated"
# A Spark session takes about 2 GiB and a fit takes the machine; commits one at a time lose no race.
POOLS = {
    "funnel_spark": {"slots": 2, "description": "Spark sessions at once", "include_deferred": False},
    "funnel_gpu": {"slots": 1, "description": "Fits at once", "include_deferred": False},
    "funnel_publish": {"slots": 1, "description": "Commits at once", "include_deferred": False},
}

COMPONENTS: Mapping[str, Sequence[str]] = {
    "api-server": (),
    # Airflow's log servers listen on every interface. Here the API server reads the logs itself, from the same disk.
    "scheduler": ("--skip-serve-logs",),
    "dag-processor": (),
    "triggerer": ("--skip-serve-logs",),
}
"""What `airflow standalone` would start, and with which options."""
PRIVATE = 0o077
"""The umask of what only Airflow reads: its database, its passwords, its logs."""
Running = dict[str, "subprocess.Popen[bytes]"]


def environment(config: Path, port: int) -> dict[str, str]:
    """Make the environment of an Airflow for one funnel; variables already set take precedence over the defaults.

    Raises:
        ConfigError: the configuration is missing or wrong.
    """
    settings = load(config)
    home = config.resolve().parent / "airflow"
    address = f"http://localhost:{port}"
    defaults = {
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        # A backfill's bare dates are read in this zone.
        "AIRFLOW__CORE__DEFAULT_TIMEZONE": settings.funnel.timezone,
        "AIRFLOW__CORE__DAGBAG_IMPORT_ERROR_TRACEBACKS": "False",
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__API__HOST": HOST,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "False",
        # Airflow sets these whatever the umask: its default lets the group write.
        "AIRFLOW__LOGGING__FILE_TASK_HANDLER_NEW_FOLDER_PERMISSIONS": "0o700",
        "AIRFLOW__LOGGING__FILE_TASK_HANDLER_NEW_FILE_PERMISSIONS": "0o600",
    }
    fixed = {
        "AIRFLOW_HOME": str(home),
        # Tasks run on this machine, and the login is the one that is printed.
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__AUTH_MANAGER": AUTH_MANAGER,
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(DAGS / "plugins"),
        "FUNNEL_CONFIG": str(config.resolve()),
        # Airflow starts its components as `airflow`, found on the PATH.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        # The server's plugin imports what the DAGs share.
        "PYTHONPATH": os.pathsep.join(filter(None, [str(DAGS), os.environ.get("PYTHONPATH", "")])),
    }
    return defaults | dict(os.environ) | fixed


def start(config: Path, port: int) -> int:
    """Run Airflow until it is stopped; once it is healthy, print its address and login.

    Returns: 0, once it was stopped.

    Raises:
        FunnelError: the port is taken, Airflow's database cannot be created, or a component has ended by itself.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise FunnelError(f"port {port} is taken: free it, or choose another with --port") from None
    variables = environment(config, port)
    home, log = _make_home(Path(variables["AIRFLOW_HOME"]))
    print(f"starting Airflow in {home} (its log: {log}); this takes about a minute", flush=True)
    _run_airflow(variables, "db", "migrate")
    pools = home / "pools.json"
    pools.touch(mode=0o600)
    pools.write_text(json.dumps(POOLS), encoding="utf-8")
    _run_airflow(variables, "pools", "import", str(pools))
    running: Running = {}
    # Also stop every child process on SIGTERM, which a service manager sends.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with log.open("ab") as output:
            for name, options in COMPONENTS.items():
                running[name] = subprocess.Popen(
                    ["airflow", name, *options],
                    env=variables,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    # The scheduler's children are the tasks: what they write to the company is as the umask here says.
                    umask=-1 if name == "scheduler" else PRIVATE,
                )
        _wait_until(lambda: _is_healthy(port), running, log)
        users = json.loads((home / PASSWORDS).read_text(encoding="utf-8"))
        logins = ", ".join(f"{user} / {password}" for user, password in users.items())
        print(f"Airflow is at http://localhost:{port}   login: {logins}   stop it with Ctrl-C", flush=True)
        _wait_until(lambda: False, running, log)
        return 0
    except KeyboardInterrupt:
        return 0
    finally:
        _stop(running)


def _make_home(home: Path) -> tuple[Path, Path]:
    """Make Airflow's folder and its log; what an earlier release left there becomes the owner's alone, too."""
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    for path in home.rglob("*"):
        # Logs come and go.
        with suppress(FileNotFoundError):
            if not path.is_symlink():
                path.chmod(0o700 if path.is_dir() else 0o600)
    log = home / "standalone.log"
    log.touch(mode=0o600)
    return home, log


def _run_airflow(variables: dict[str, str], *command: str) -> None:
    done = subprocess.run(
        ["airflow", *command], env=variables, capture_output=True, text=True, check=False, umask=PRIVATE
    )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise FunnelError(f"airflow {' '.join(command)} failed: {lines[-1]}")


def _wait_until(is_true: Callable[[], bool], running: Running, log: Path) -> None:
    """Wait until this is true.

    Raises:
        FunnelError: a component has ended: the others would go on as if all were well.
    """
    while not is_true():
        for name, process in running.items():
            if process.poll() is not None:
                code = process.returncode
                raise FunnelError(f"Airflow's {name} has ended with exit code {code}, so all is stopped: see {log}")
        time.sleep(1)


def _is_healthy(port: int) -> bool:
    try:
        with urlopen(f"http://{HOST}:{port}/api/v2/monitor/health", timeout=5) as answer:
            health = json.load(answer)
        parts = ("metadatabase", "scheduler", "dag_processor", "triggerer")
        return all(health[part]["status"] == "healthy" for part in parts)
    except (URLError, OSError, ValueError):
        return False


def _stop(running: Running) -> None:
    # A component's children share its session: signal them all, and kill those that do not stop.
    for number, seconds in ((signal.SIGINT, 8), (signal.SIGTERM, 8), (signal.SIGKILL, 5)):
        for process in running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        end = time.monotonic() + seconds
        while time.monotonic() < end and any(map(_is_there, running.values())):
            time.sleep(0.1)


def _is_there(process: "subprocess.Popen[bytes]") -> bool:
    """Whether a component or one of its children still runs."""
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description="Start a real Airflow for one funnel.")
    parser.add_argument("config", type=Path, help="the funnel's TOML file")
    parser.add_argument("--port", type=int, default=8080)
    arguments = parser.parse_args()
    try:
        sys.exit(start(arguments.config, arguments.port))
    except FunnelError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
