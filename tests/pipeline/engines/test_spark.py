"""How Spark is started, and which frames it keeps."""

import re
from collections.abc import Callable
from datetime import date
from ipaddress import IPv6Address, ip_address

import psutil
import pytest
from pydantic import SecretStr
from pyspark import SparkContext

from pipeline.dates import DateRange
from pipeline.engines import mirror, spark
from pipeline.engines.executors import PYTHON
from pipeline.engines.launch import start_jvm
from pipeline.engines.spark import LOOPBACK, cached, properties
from pipeline.errors import FunnelError, TransientError
from pipeline.runs import context as contexts
from pipeline.runs.record import recorded
from tests.support.company import Company
from tests.support.nights import publish
from tests.support.waiting import free_port

OPTIONS = "spark.driver.extraJavaOptions"
ONE_COMPILER = "-XX:TieredStopAtLevel=1"


def test_the_jvm_optimises_its_code_only_where_months_are_read(company: Company) -> None:
    settings = company.settings
    del settings.spark.conf[OPTIONS]  # those of the tests
    assert ONE_COMPILER in properties(settings, is_bulk=False)[OPTIONS].split()
    assert ONE_COMPILER not in properties(settings, is_bulk=True)[OPTIONS].split()


def test_the_configuration_wins(company: Company) -> None:
    settings = company.settings
    given = {OPTIONS: "-XX:TieredStopAtLevel=4", "spark.sql.shuffle.partitions": "64"}
    settings.spark.conf.update({name: SecretStr(value) for name, value in given.items()})
    found = properties(settings, is_bulk=False)
    assert found["spark.sql.shuffle.partitions"] == "64"
    # Of an option given twice, the JVM takes the last.
    assert found[OPTIONS].split().index(ONE_COMPILER) < found[OPTIONS].split().index("-XX:TieredStopAtLevel=4")


@pytest.mark.parametrize(
    ("users", "is_bulk", "optimises"),
    [([], False, False), ([], True, True), ([3, 2], False, False), ([4, 2], False, True)],
)
def test_the_jvm_optimises_a_night_of_many_users(
    company: Company, monkeypatch: pytest.MonkeyPatch, users: list[int], is_bulk: bool, optimises: bool
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(contexts, "MANY_USERS", 3)
    monkeypatch.setattr(spark, "open_session", lambda settings, *, is_bulk: asked.append(is_bulk))
    for day, known in zip((date(2026, 1, 1), date(2026, 1, 8)), users, strict=False):
        publish(company, "known_users", day, [{"user_id": f"user-{each}"} for each in range(known)])
    _ = company.context(is_bulk=is_bulk).spark
    assert asked == [optimises]


def test_a_cluster_can_reach_the_driver_and_keeps_its_own_python_and_partitions(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYSPARK_PYTHON", raising=False)
    spark = company.settings.spark.model_copy(update={"master": "spark://master:7077"})
    settings = company.settings.model_copy(update={"spark": spark})
    del settings.spark.conf["spark.sql.shuffle.partitions"]  # those of the tests
    found = properties(settings, is_bulk=False)
    assert not set(LOOPBACK) & set(found)
    assert "spark.sql.shuffle.partitions" not in found
    assert found[PYTHON] == "python3"
    settings.spark.conf[PYTHON] = SecretStr("/opt/bin/python3")
    assert properties(settings, is_bulk=False)[PYTHON] == "/opt/bin/python3"


def test_a_master_that_does_not_answer_is_named_before_spark_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SparkContext, "_gateway", None)
    master = f"spark://127.0.0.1:{free_port()},nowhere.invalid:7077"
    with pytest.raises(TransientError) as told:
        start_jvm({"spark.master": master})
    assert re.fullmatch(
        rf"no master of Spark answers at {master} \(127.0.0.1:\d+: Connection refused; nowhere.invalid:7077: .+\); "
        r"see \[spark\] master",
        str(told.value),
    )


@pytest.mark.usefixtures("spark")
def test_without_a_cluster_nothing_listens_to_other_machines(company: Company) -> None:
    assert company.context().spark.range(3).cache().count() == 3
    jvms = [each for each in psutil.Process().children(recursive=True) if each.name() == "java"]
    addresses = [
        ip_address(found.laddr.ip)
        for each in jvms
        for found in each.net_connections(kind="inet")
        if found.status == psutil.CONN_LISTEN
    ]
    assert addresses
    assert all((each.ipv4_mapped or each if isinstance(each, IPv6Address) else each).is_loopback for each in addresses)


@pytest.mark.usefixtures("spark")
def test_a_cached_frame_is_released_on_errors_too_and_no_other_is(company: Company) -> None:
    spark = company.context().spark
    other = spark.range(3).cache()
    with pytest.raises(ZeroDivisionError), cached(spark.range(5)) as frame:
        assert frame.storageLevel.useMemory
        frame.selectExpr("sum(id)").collect()[0][0] // 0
    assert not frame.storageLevel.useMemory
    assert other.storageLevel.useMemory
    other.unpersist()


@pytest.mark.usefixtures("spark")
@pytest.mark.parametrize("broken", [1, 2], ids=["while files are written", "after files were written"])
def test_a_stage_that_fails_leaves_no_files(company: Company, broken: int) -> None:
    context, day = company.context(), date(2026, 1, 1)
    publish(company, "quarantine", day, [{"reason": "good", "raw": "{}"}])
    folder = company.folder / "warehouse" / "funnel" / "quarantine" / "data"
    before = sorted(folder.rglob("*"))
    rows = "'bad' AS reason, string(id) AS raw, DATE'2026-01-01' AS landed_on"
    failing = context.spark.range(100).selectExpr(
        "if(id < 99, 'bad', raise_error('no more')) AS reason", "'{}' AS raw", "DATE'2026-01-01' AS landed_on"
    )
    with pytest.raises(FunnelError), recorded(context, "ingest", DateRange(day, day)):
        spark.stage(context.spark.range(9).selectExpr(rows), context.warehouse, "quarantine", sort=["raw"])
        assert sorted(folder.rglob("*")) != before
        if broken == 1:
            spark.stage(failing, context.warehouse, "quarantine", sort=["raw"])
        raise FunnelError("a check failed")
    assert sorted(folder.rglob("*")) == before


def test_what_the_configuration_says_of_the_store_wins(make_company: Callable[..., Company]) -> None:
    settings = make_company(
        '[storage]\nendpoint = "https://minio:9000"\n',
        replace={"[spark]": '[spark]\nconf."spark.hadoop.fs.s3a.endpoint" = "https://proxy"'},
    ).settings
    found = properties(settings, is_bulk=False)
    assert found["spark.hadoop.fs.s3a.endpoint"] == "https://proxy"
    assert found["spark.hadoop.fs.s3a.path.style.access"] == "true"


def test_a_cluster_without_a_file_system_for_the_store_is_told_which_jar(
    company: Company, monkeypatch: pytest.MonkeyPatch, spark: None
) -> None:
    monkeypatch.setattr(mirror, "_mirrors", {})
    session = company.context().spark
    monkeypatch.setattr(session.sparkContext, "master", "spark://master:7077")
    with pytest.raises(
        FunnelError, match=r'conf."spark.jars.packages" = "org.apache.hadoop:hadoop-aws:3\.\d'
    ) as raised:
        mirror.find_mirror(session, "s3://bucket/tables")
    assert "spark://master:7077 has no file system for s3://" in str(raised.value)
    assert mirror.find_mirror(session, "/data/tables") is None
