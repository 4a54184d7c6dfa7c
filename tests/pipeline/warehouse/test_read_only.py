"""A warehouse that cannot be written: told by `doctor` and at the start of a stage; reading goes on."""

import os
import subprocess
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from pipeline.dates import DateRange
from pipeline.errors import FunnelError
from pipeline.runs.record import recorded
from tests.pipeline.relocation.test_relocation import Funnel, fill
from tests.support.company import Company

DAY = date(2026, 3, 1)


@pytest.fixture
def read_only(company: Company) -> Iterator[Path]:
    """A company's warehouse with a table in it, read-only."""
    fill(company)
    folder = company.folder / "warehouse"
    if os.geteuid():
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)
        return
    # Root may write whatever the permissions say.
    if subprocess.run(["mount", "--bind", folder, folder], capture_output=True, check=False).returncode:
        pytest.skip("root without the right to mount cannot make a folder read-only for itself")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield folder
    finally:
        # Lazily: the catalog may still be open.
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_read_only_warehouse_is_told_before_work_is_done(company: Company, funnel: Funnel, read_only: Path) -> None:
    with pytest.raises(FunnelError) as raised, recorded(company.context(), "ingest", DateRange(DAY, DAY)):
        pytest.fail("the stage began")
    line = str(raised.value)
    assert line.startswith(f"ingest {DAY}: the warehouse at {read_only} cannot be written") and "\n" not in line
    (said,) = [line for line in funnel("doctor", "-c", company.config).out.splitlines() if " warehouse " in line]
    assert said.startswith("failed") and str(read_only) in said
    assert "2" in funnel("sql", "SELECT count(*) AS n FROM quarantine", "-c", company.config).out
