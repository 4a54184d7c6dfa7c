"""Spark in the time zone of the funnel under test."""

from collections.abc import Callable, Iterator
from zoneinfo import ZoneInfo

import pytest
from pyspark.sql import SparkSession

from pipeline.engines.spark import open_session

ZONE = "spark.sql.session.timeZone"


@pytest.fixture
def spark_in(make_company: Callable) -> Iterator[Callable[[ZoneInfo], SparkSession]]:
    """The shared session, configured for a funnel of a zone; its former zone is restored afterwards."""
    active = SparkSession.getActiveSession()
    before = active.conf.get(ZONE) if active else None
    yield lambda zone: open_session(make_company(timezone=zone.key).settings)
    if active and before:
        active.conf.set(ZONE, before)
