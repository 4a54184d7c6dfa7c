"""Keep what Spark's JVM loads at every start as one archive, which halves the start: python -m tests.spark_archive FILE

The tests start dozens of JVMs. An archive that is not there, or of another Java or Spark, is passed over by the JVM.
"""

import sys
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

from pyspark import SparkContext

from pipeline.dates import DateRange
from pipeline.ingest.activity import build_activity
from pipeline.ingest.ingest import ingest
from tests.support.company import USE_ARCHIVE, Company
from tests.support.funnels import sms

DAY = date(2026, 3, 1)


def write(archive: Path) -> None:
    """Land a day of a small company and archive the classes that this took."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        company = Company.make(Path(folder), replace={USE_ARCHIVE: f"-XX:ArchiveClassesAtExit={archive}"})
        company.land(DAY, [sms("1", "ann", f"{DAY} 10:00:00")], [{"uid": "ann"}])
        ingest(company.context(), DateRange(DAY, DAY))
        build_activity(company.context(), DateRange(DAY, DAY))
        company.context().spark.stop()
        # The archive is written when the JVM ends, which it does once it cannot hear from this process.
        gateway = SparkContext._gateway
        gateway.shutdown()
        gateway.proc.stdin.close()
        gateway.proc.wait()


if __name__ == "__main__":
    write(Path(sys.argv[1]))
