"""What Spark is started with."""

from pipeline.spark import properties
from tests.conftest import Company

OPTIONS = "spark.driver.extraJavaOptions"
ONE_COMPILER = "-XX:TieredStopAtLevel=1"


def test_only_where_months_are_read_does_the_jvm_optimise_its_code(company: Company) -> None:
    settings = company.settings
    del settings.spark.conf[OPTIONS]  # those of the tests
    assert ONE_COMPILER in properties(settings, is_bulk=False)[OPTIONS].split()
    assert ONE_COMPILER not in properties(settings, is_bulk=True)[OPTIONS].split()


def test_what_the_configuration_says_wins(company: Company) -> None:
    settings = company.settings
    settings.spark.conf.update({OPTIONS: "-XX:TieredStopAtLevel=4", "spark.sql.shuffle.partitions": "64"})
    found = properties(settings, is_bulk=False)
    assert found["spark.sql.shuffle.partitions"] == "64"
    # Of an option given twice, the JVM takes the last.
    assert found[OPTIONS].split().index(ONE_COMPILER) < found[OPTIONS].split().index("-XX:TieredStopAtLevel=4")
