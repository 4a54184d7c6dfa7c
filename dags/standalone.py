"""Start a real Airflow for one funnel: python dags/standalone.py FUNNEL.toml [--port 8080]

Its home, database and logs are in `airflow/` next to the configuration. It is for one machine; `dags/README.md` says
how to deploy the same DAGs to a production Airflow.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from pipeline.config.settings import load
from pipeline.errors import FunnelError

DAGS = Path(__file__).resolve().parent
# A Spark session takes about 2 GiB and a fit takes the machine; commits one at a time lose no race.
POOLS = {
    "funnel_spark": {"slots": 2, "description": "Spark sessions at once", "include_deferred": False},
    "funnel_gpu": {"slots": 1, "description": "Fits at once", "include_deferred": False},
    "funnel_publish": {"slots": 1, "description": "Commits at once", "include_deferred": False},
}


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
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "False",
    }
    fixed = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(DAGS / "plugins"),
        "FUNNEL_CONFIG": str(config.resolve()),
        # `airflow standalone` starts its components as `airflow`, found on the PATH.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        # The server's plugin imports what the DAGs share.
        "PYTHONPATH": os.pathsep.join(filter(None, [str(DAGS), os.environ.get("PYTHONPATH", "")])),
    }
    return defaults | dict(os.environ) | fixed


def start(config: Path, port: int) -> int:
    """Run Airflow until it is stopped; once it is healthy, print its address and login.

    Returns: Airflow's exit code.

    Raises:
        FunnelError: the port is taken, or Airflow's database cannot be created.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise FunnelError(f"port {port} is taken: free it, or choose another with --port") from None
    variables = environment(config, port)
    home = Path(variables["AIRFLOW_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    log = home / "standalone.log"
    print(f"starting Airflow in {home} (its log: {log}); this takes about a minute", flush=True)
    _run_airflow(variables, "db", "migrate")
    pools = home / "pools.json"
    pools.write_text(json.dumps(POOLS), encoding="utf-8")
    _run_airflow(variables, "pools", "import", str(pools))
    with log.open("ab") as output:
        running = subprocess.Popen(
            ["airflow", "standalone"], env=variables, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    # Also stop every child process on SIGTERM, which a service manager sends.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if _wait_until(lambda: _is_healthy(port), running):
            users = json.loads((home / "simple_auth_manager_passwords.json.generated").read_text(encoding="utf-8"))
            logins = ", ".join(f"{user} / {password}" for user, password in users.items())
            print(f"Airflow is at http://localhost:{port}   login: {logins}   stop it with Ctrl-C", flush=True)
        return running.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        _stop(running)


def _run_airflow(variables: dict[str, str], *command: str) -> None:
    done = subprocess.run(["airflow", *command], env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise FunnelError(f"airflow {' '.join(command)} failed: {lines[-1]}")


def _wait_until(is_true: Callable[[], bool], running: "subprocess.Popen[bytes]") -> bool:
    while running.poll() is None:
        if is_true():
            return True
        time.sleep(1)
    return False


def _is_healthy(port: int) -> bool:
    try:
        with urlopen(f"http://localhost:{port}/api/v2/monitor/health", timeout=5) as answer:
            health = json.load(answer)
        return all(health[part]["status"] == "healthy" for part in ("metadatabase", "scheduler", "dag_processor"))
    except (URLError, OSError, ValueError):
        return False


def _stop(running: "subprocess.Popen[bytes]") -> None:
    # Airflow's processes share its session: signal them all, and kill those that do not stop.
    for number, seconds in ((signal.SIGINT, 8), (signal.SIGTERM, 8), (signal.SIGKILL, 5)):
        try:
            os.killpg(running.pid, number)
            running.wait(seconds)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


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
