"""What a new user meets first: `make` on a machine that lacks something, and the wheel outside the checkout."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.company import JAVA_OPTIONS
from tests.support.places import ROOT

PACKAGES = ("dags", "pipeline", "model", "sql", "pyproject.toml", "README.md", "LICENSE")


def _make(folder: Path, **programs: str) -> subprocess.CompletedProcess[str]:
    """`make setup` with only these programs (name = shell script) beside the system's own tools."""
    tools = folder / "bin"
    tools.mkdir()
    for name in ("make", "sh", "grep", "test", "touch", "echo"):
        (tools / name).symlink_to(shutil.which(name) or f"/bin/{name}")
    for name, script in programs.items():
        program = tools / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IEXEC)
    return subprocess.run(
        ["make", "setup", f"VENV={folder / 'venv'}"],
        cwd=ROOT,
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("programs", "line"),
    [
        ({}, "funnelcast needs Python 3.11 or newer"),
        ({"python3": f'exec {sys.executable} -c "import sys; sys.exit(1)"'}, "funnelcast needs Python 3.11 or newer"),
        ({"python3": f'exec {sys.executable} "$@"'}, "funnelcast needs Java 17 or newer"),
        (
            {"python3": f'exec {sys.executable} "$@"', "java": "echo 'openjdk version \"1.8.0_402\"' >&2"},
            "funnelcast needs Java 17 or newer",
        ),
    ],
    ids=["no python", "old python", "no java", "old java"],
)
def test_make_says_in_one_line_what_to_install(tmp_path: Path, programs: dict[str, str], line: str) -> None:
    done = _make(tmp_path, **programs)
    assert done.returncode != 0
    said = [each for each in done.stdout.splitlines() if not each.startswith("make")]
    assert len(said) == 1
    assert said[0].startswith(line)
    assert not (tmp_path / "venv").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("spark")
def test_the_wheel_works_outside_the_checkout(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    for name in PACKAGES:
        path = ROOT / name
        shutil.copytree(path, source / name) if path.is_dir() else shutil.copy(path, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    java = shutil.which("java", path=f"{os.environ.get('JAVA_HOME', '')}/bin:{os.environ['PATH']}")
    assert java is not None
    starts, wrapper = tmp_path / "starts", tmp_path / "home" / "bin" / "java"
    wrapper.parent.mkdir(parents=True)
    wrapper.write_text(f'#!/bin/sh\necho "$*" >> "{starts}"\nexec "{Path(java).resolve()}" "$@"\n', encoding="utf-8")
    wrapper.chmod(0o755)
    spark = json.dumps({"spark.driver.extraJavaOptions": JAVA_OPTIONS})

    def run(*command: str) -> str:
        starts.write_text("", encoding="utf-8")
        settings = {"PYTHONPATH": str(site), "JAVA_HOME": str(tmp_path / "home"), "FUNNEL_SPARK__CONF": spark}
        environment = os.environ | settings
        return subprocess.run(
            [sys.executable, *command], cwd=elsewhere, env=environment, capture_output=True, text=True, check=True
        ).stdout

    assert run("-c", "import pipeline, sql; print(pipeline.__file__, sql.__file__)").count(str(site)) == 2
    assert "nightly" in run("-m", "pipeline", "--help")
    names = {path.relative_to(ROOT) for path in (ROOT / "sql").rglob("*.sql")}
    assert names
    assert {path.relative_to(site) for path in (site / "sql").rglob("*.sql")} == names
    # The demo on a company of a handful of days uses every SQL file, the log configuration and the demo's own.
    said = run("-m", "pipeline", "demo", "--out", "small", "--users", "1500", "--days", "60", "--nights", "1")
    assert "user_scores of 2026-02-28" in said
    # Training, a whole night and its report share one; what Spark's launcher asks Java for is not counted.
    started = starts.read_text(encoding="utf-8").splitlines()
    assert sum("deploy.SparkSubmit" in line and "launcher.Main" not in line for line in started) == 1
    assert (elsewhere / "small" / "reports" / "2026-02-28.html").is_file()
    assert "2026-02-28" in run(
        "-m", "pipeline", "sql", "SELECT DISTINCT ds FROM user_scores", "-c", "small/funnel.toml"
    )
    assert starts.read_text(encoding="utf-8") == ""
