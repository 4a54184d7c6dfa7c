"""The warehouse's tables: columns, types and partition of each, as the configuration shapes them."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from pipeline.config.sections import EXPOSURE
from pipeline.config.settings import Settings

TIMESTAMP = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Table:
    """A table's name, its partition column (a date) and its columns."""

    name: str
    partition: str
    schema: pa.Schema


def all_tables(settings: Settings) -> Mapping[str, Table]:
    """Every table of the warehouse by name.

    Feature columns follow `[features]`, label and score columns follow `funnel.stages`.
    """
    stages = settings.funnel.stage_names
    tables = [
        _table(
            "events",
            "landed_on",
            event_id=pa.string(),
            user_id=pa.string(),
            event=pa.string(),
            event_time=TIMESTAMP,
            campaign_id=pa.string(),
            context=pa.map_(pa.string(), pa.string()),
        ),
        _table("quarantine", "landed_on", reason=pa.string(), raw=pa.string()),
        _table("users", "landed_on", user_id=pa.string(), **contact_columns(settings), **profile_columns(settings)),
        _table(
            "activity",
            "landed_on",
            user_id=pa.string(),
            event=pa.string(),
            event_date=pa.date32(),
            n=pa.int64(),
            first_time=TIMESTAMP,
            last_time=TIMESTAMP,
        ),
        _table(
            "known_users",
            "as_of",
            user_id=pa.string(),
            profile_on=pa.date32(),
            **contact_columns(settings),
            **profile_columns(settings),
            seen_on=pa.date32(),
            completed_on=pa.date32(),
            made_from=pa.string(),
        ),
        _table(
            "examples",
            "as_of",
            exposure_id=pa.string(),
            user_id=pa.string(),
            exposure_time=TIMESTAMP,
            exposure_date=pa.date32(),
            feature_as_of=pa.date32(),
            **feature_columns(settings),
            **{f"context_{name}": pa.string() for name in settings.features.context},
            **{f"observed_{stage}": pa.int32() for stage in stages},
            **{f"mature_{stage}": pa.bool_() for stage in stages},
            **{f"label_{stage}": pa.int32() for stage in stages},
        ),
        _table(
            "user_scores",
            "ds",
            user_id=pa.string(),
            **{f"p_{stage}": pa.float64() for stage in stages},
            **{f"raw_{stage}": pa.float64() for stage in stages},
            **{f"band_{stage}": pa.int32() for stage in stages},
            feature_as_of=pa.date32(),
            model_version=pa.string(),
            run_id=pa.string(),
            code_version=pa.string(),
            scored_at=TIMESTAMP,
        ),
        _table(
            "runs",
            "ds",
            run_id=pa.string(),
            stage=pa.string(),
            status=pa.string(),
            rows_in=pa.int64(),
            rows_out=pa.int64(),
            duplicates=pa.int64(),
            quarantined=pa.int64(),
            seconds=pa.float64(),
            started_at=TIMESTAMP,
            inputs=pa.map_(pa.string(), pa.int64()),
            output_snapshot=pa.int64(),
            model_version=pa.string(),
            code_version=pa.string(),
            warnings=pa.string(),
            message=pa.string(),
        ),
        _table(
            "metrics",
            "ds",
            name=pa.string(),
            stage=pa.string(),
            feature=pa.string(),
            model_version=pa.string(),
            value=pa.float64(),
            run_id=pa.string(),
        ),
        _table(
            "audits",
            "ds",
            audited=pa.string(),
            expectation=pa.string(),
            columns=pa.string(),
            severity=pa.string(),
            status=pa.string(),
            observed=pa.string(),
            checked_at=TIMESTAMP,
            run_id=pa.string(),
        ),
        _table("feature_samples", "ds", user_id=pa.string(), **feature_columns(settings)),
        _table(
            "baselines",
            "ds",
            model_version=pa.string(),
            stage=pa.string(),
            feature=pa.string(),
            bin=pa.int32(),
            upper=pa.float64(),
            value=pa.string(),
            rows=pa.int64(),
            run_id=pa.string(),
        ),
        _table(
            "targets",
            "ds",
            campaign_id=pa.string(),
            version=pa.int32(),
            user_id=pa.string(),
            arm=pa.string(),
            reason=pa.string(),
            rank=pa.int64(),
            expected_value=pa.float64(),
            goal=pa.string(),
            p_goal=pa.float64(),
            band_goal=pa.int32(),
            send_on=pa.date32(),
            sms_cost=pa.float64(),
            model_version=pa.string(),
            run_id=pa.string(),
            made_at=TIMESTAMP,
        ),
        _table(
            "exports",
            "ds",
            campaign_id=pa.string(),
            version=pa.int32(),
            path=pa.string(),
            users=pa.int64(),
            sha256=pa.string(),
            exported_at=TIMESTAMP,
            run_id=pa.string(),
        ),
    ]
    return {table.name: table for table in tables}


def contact_columns(settings: Settings) -> dict[str, pa.DataType]:
    """Whether and when a user may be texted: consent, and the time zone where the source maps one."""
    zone = {"time_zone": pa.string()} if settings.source.has_time_zones else {}
    return {"consent": pa.bool_()} | zone


def profile_columns(settings: Settings) -> dict[str, pa.DataType]:
    """A user's declared attributes: strings for the categorical, floats for the numeric ones."""
    features = settings.features
    return dict.fromkeys(features.categorical, pa.string()) | dict.fromkeys(features.numeric, pa.float64())


def behaviour_columns(settings: Settings) -> dict[str, pa.DataType]:
    """Counts of each event by window and days since the last one (null: none within the longest window)."""
    columns: dict[str, pa.DataType] = {}
    for event in event_kinds(settings):
        columns |= {f"{event}_n_{days}d": pa.int64() for days in settings.features.windows_days}
        columns[f"{event}_days_since"] = pa.int32()
    return columns


def feature_columns(settings: Settings) -> dict[str, pa.DataType]:
    """Everything `sql/spark/features.sql` computes for a row of the spine, in its order."""
    return behaviour_columns(settings) | profile_columns(settings)


def event_kinds(settings: Settings) -> tuple[str, ...]:
    """Our names of the events: the exposure, then the stages in order."""
    return (EXPOSURE, *settings.funnel.stage_names)


def _table(name: str, partition: str, /, **columns: pa.DataType) -> Table:
    return Table(name, partition, pa.schema([*columns.items(), (partition, pa.date32())]))
