"""A warehouse with random rows in every table that a view reads, made without Spark."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np

from tests.support.company import Company
from tests.support.nights import STAGES, publish, record

FIRST, LISTED, LAST = date(2026, 3, 1), date(2026, 3, 12), date(2026, 3, 24)
"""The first landing day, the night on which lists were made, and the last landing day."""
NIGHTS = [LAST - timedelta(days=n) for n in (4, 2, 1, 0)]
"""Nights with scores; one between them has none."""
USERS = [f"u{n}" for n in range(40)]
WINDOWS = dict(zip(STAGES, (3, 7, 14), strict=True))


def fill(company: Company, seed: int = 0) -> None:
    """Put rows into the tables. Every night misses some users, every list has two versions, some runs fail."""
    rng = np.random.default_rng(seed)
    for ds in NIGHTS:
        publish(company, "user_scores", ds, _scores(rng))
    for day in (FIRST + timedelta(days=n) for n in range((LAST - FIRST).days + 1)):
        publish(company, "activity", day, _activity(rng, day))
    for as_of in (LAST - timedelta(days=7), LAST):
        publish(company, "examples", as_of, _examples(rng, as_of))
    publish(company, "quarantine", LAST, [{"reason": "null user", "raw": "{}"}, {"reason": "null event", "raw": "{}"}])
    publish(company, "targets", LISTED, [row for version in (1, 2) for row in _targets(rng, version)])
    exported = datetime(2026, 3, 13, 0, 30, tzinfo=UTC)
    publish(
        company,
        "exports",
        LISTED,
        [
            {
                "campaign_id": "cash",
                "version": 1,
                "exported_at": exported + timedelta(hours=2 * number),
                "users": 12 - number,
                "withdrawn": number,
                "completed": 1,
                "landed_until": LISTED + timedelta(days=number),
            }
            for number in range(2)
        ],
    )
    _record_runs(company, rng)
    _measure(company, rng)


def _scores(rng: np.random.Generator) -> list[dict[str, Any]]:
    users = [user for user in USERS if rng.random() < 0.8]
    first = rng.random(len(users))
    return [
        {
            "user_id": user,
            "model_version": "model-1",
            "run_id": "night",
            **{f"p_{stage}": p * 0.3**position for position, stage in enumerate(STAGES)},
            **{f"band_{stage}": int(rng.integers(1, 5)) for stage in STAGES},
        }
        for user, p in zip(users, first, strict=True)
    ]


def _activity(rng: np.random.Generator, day: date) -> list[dict[str, Any]]:
    rows = []
    for event, share in zip(("exposure", *STAGES), (0.4, 0.25, 0.15, 0.1), strict=True):
        # Some events land a day late; the first day has events of a day without exposures.
        rows += [
            {
                "user_id": user,
                "event": event,
                "event_date": day - timedelta(days=int(event != "exposure" and rng.random() < 0.2)),
                "n": int(rng.integers(1, 4)),
            }
            for user in USERS
            if rng.random() < share
        ]
    return rows


def _examples(rng: np.random.Generator, as_of: date) -> list[dict[str, Any]]:
    rows = []
    for n in range(120):
        day = as_of - timedelta(days=int(rng.integers(0, 20)))
        mature = {stage: day + timedelta(days=window) <= as_of for stage, window in WINDOWS.items()}
        rows.append(
            {
                "exposure_id": f"e{n}",
                "user_id": str(rng.choice(USERS)),
                "exposure_date": day,
                **{f"mature_{stage}": mature[stage] for stage in STAGES},
                **{f"label_{stage}": int(rng.random() < 0.3) if mature[stage] else None for stage in STAGES},
            }
        )
    return rows


def _targets(rng: np.random.Generator, version: int) -> list[dict[str, Any]]:
    rows = []
    for campaign, goal in (("cash", "complete"), ("spring", "click")):
        for rank, user in enumerate(rng.permutation(USERS), start=1):
            arm = str(rng.choice(["target", "control", "holdout", "suppressed"], p=[0.4, 0.3, 0.1, 0.2]))
            rows.append(
                {
                    "campaign_id": campaign,
                    "version": version,
                    "user_id": str(user),
                    "arm": arm,
                    "reason": "frequency cap" if arm == "suppressed" else "chosen",
                    "rank": None if arm == "suppressed" else rank,
                    "expected_value": None if arm == "suppressed" else float(rng.random()),
                    "goal": goal,
                    "p_goal": float(rng.random()),
                    "band_goal": int(rng.integers(1, 4)),
                    "send_on": LISTED + timedelta(days=1),
                    "sms_cost": 0.05,
                    "model_version": "model-1",
                    "made_at": datetime(2026, 3, 12, 20, version, tzinfo=UTC),
                }
            )
    return rows


def _record_runs(company: Company, rng: np.random.Generator) -> None:
    for ds in NIGHTS:
        evening = datetime(ds.year, ds.month, ds.day, 17, tzinfo=UTC)
        for hours, stage in enumerate(("ingest", "activity", "score")):
            started = evening + timedelta(hours=hours)
            counts: dict[str, Any] = {"rows_in": 100 + ds.day, "rows_out": 90 + ds.day, "duplicates": 7}
            counts |= {"quarantined": 3, "seconds": float(rng.random()), "model_version": "model-1"}
            if rng.random() < 0.4:
                failed = {"status": "failed", "message": "no disk", "rows_out": 0, "run_id": "first try"}
                record(company, ds, stage, started - timedelta(minutes=30), **failed)
            warned = {"warnings": "few rows\nlate rows"} if rng.random() < 0.5 else {}
            record(company, ds, stage, started, **counts, **warned)


def _measure(company: Company, rng: np.random.Generator) -> None:
    matured = [f"matured_{name}" for name in ("auc", "calibration_error", "calibration_gap", "lift")]
    counted = ["matured_exposures", "matured_positives"]
    metrics = [
        {"ds": ds, "name": name, "stage": stage, "model_version": "model-1", "value": value}
        for ds, names in [(FIRST, ["held_out_auc", "held_out_ece"]), *((ds, [*matured, *counted]) for ds in NIGHTS)]
        for stage in STAGES
        for name in names
        for value in [float(rng.integers(1, 99)) if name in counted else float(rng.random())]
    ]
    company.context().warehouse.append("metrics", metrics)
    statuses = ("ok", "ok", "warning", "failed")
    audits = [
        {
            "ds": ds,
            "audited": audited,
            "expectation": f"expectation {n}",
            "status": statuses[n],
            "severity": "warning" if n == 2 else "critical",
            "checked_at": datetime(ds.year, ds.month, ds.day, 18, tzinfo=UTC),
            "run_id": "night",
        }
        for ds in NIGHTS
        for audited in ("events", "user_scores")
        for n in range(4)
    ]
    company.context().warehouse.append("audits", audits)
