"""A company in which one user is everywhere."""

import shutil
from datetime import UTC, date, datetime, timedelta

import pytest

from pipeline.models.registry import Registry
from tests.support.company import Company
from tests.support.nights import publish, record

D1, D2, D3 = (date(2026, 3, 1) + timedelta(days=n) for n in range(3))
ANN = "u-0000000000004711"
"""Longer than the 16 characters that Iceberg keeps of a bound."""
BEN, CAT = "u-0000000000004712", "u-0000000000004709"
NOON = datetime(2026, 3, 1, 4, tzinfo=UTC)


def fill_a_little(company: Company) -> None:
    """One user with examples as of a day, another with others: enough for models."""
    publish(company, "events", D1, [{"user_id": user, "event": "exposure"} for user in (ANN, BEN)])
    publish(company, "examples", D2, [{"user_id": ANN}, {"user_id": BEN}])
    publish(company, "examples", D3, [{"user_id": BEN}])


def fill(company: Company) -> None:
    """Put users into every table, with older snapshots, merged manifests, texts that name one and a staged file."""
    everyone = (ANN, BEN, CAT)
    for day in (D1, D2, D3):
        for others in ((BEN,), everyone, everyone):
            publish(
                company,
                "events",
                day,
                [{"event_id": f"{day} {user}", "user_id": user, "event": "exposure"} for user in others],
            )
        for table in ("users", "activity", "known_users", "user_scores", "feature_samples"):
            publish(company, table, day, [{"user_id": user} for user in everyone])
        publish(company, "users", day, [{"user_id": user, "city_tier": user} for user in everyone])
        publish(company, "quarantine", day, [
            {"reason": "null event", "raw": f'{{"id":"e","uid":"{user}"}}'} for user in everyone
        ])  # fmt: skip
        publish(company, "stopped_quarantine", day, [{"reason": "x", "raw": f'{{"line":"e;{ANN};3"}}'}])
        publish(company, "targets", day, [{"user_id": user, "campaign_id": "spring"} for user in everyone])
    publish(company, "examples", D2, [{"user_id": user, "exposure_id": user} for user in everyone])
    publish(company, "examples", D3, [{"user_id": BEN}])
    for n in range(12):
        record(company, D1, f"stage {n}", NOON, warnings=f"user {ANN!r} has {n} events\nuser {BEN!r} too")
    record(company, D1, "ingest", NOON, status="failed", message=f"rows such as {ANN!r}")
    warehouse = company.context().warehouse
    warehouse.append("audits", [{"ds": D1, "observed": f"1 rows break it, such as {{user_id: {ANN}}}"}])


@pytest.fixture(scope="session")
def built(warehouse: None, tmp_path_factory: pytest.TempPathFactory) -> Company:
    """Filled once; Iceberg keeps absolute paths, so each test gets it back in the same place."""
    company = Company.make(tmp_path_factory.mktemp("full"))
    fill(company)
    shutil.copytree(company.folder, f"{company.folder}-as-built")
    return company


@pytest.fixture
def full(built: Company) -> Company:
    shutil.rmtree(built.folder)
    shutil.copytree(f"{built.folder}-as-built", built.folder)
    return built


def train_by_hand(company: Company, as_of: date, content: str = "weights") -> str:
    """A finished training whose bundle is one small text."""
    tracking = Registry(company.settings).tracking
    run = tracking.begin(as_of, tags={}, parameters={})
    bundle = company.folder / "made" / run.version
    bundle.mkdir(parents=True)
    (bundle / "weights").write_text(content, encoding="utf-8")
    tracking.log_folder(run, bundle.parent, "bundle")
    tracking.finish(run)
    (bundle / "weights").unlink()
    bundle.rmdir()
    return run.version
