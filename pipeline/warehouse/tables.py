"""The warehouse's tables, as the configuration shapes them: each table and column is described here, once.

The descriptions go into the catalog with the columns, and into `sql/README.md`.
"""

from collections.abc import Iterable, Mapping

import pyarrow as pa

from pipeline.config.features import Feature, attribute_features, declared_features, user_features
from pipeline.config.settings import Settings
from pipeline.warehouse.record_tables import AUDITS, BASELINES, ERASURES, EXPORTS, METRICS, RUN_ID, RUNS, TARGETS
from pipeline.warehouse.schema import BOOLEAN, DATE, DOUBLE, INT, LONG, STRING, TIMESTAMP, Column, Table

ARROW_TYPES = {"string": STRING, "int32": INT, "int64": LONG, "float64": DOUBLE}

EVENTS = Table(
    "events",
    "One event of the funnel, kept on the day it landed.",
    (
        Column("event_id", STRING, "The source's id, or a digest of the row where the source has none."),
        Column("user_id", STRING, "The user."),
        Column("event", STRING, "exposure, or the name of the stage in the configuration."),
        Column("event_time", TIMESTAMP, "When it happened."),
        Column("campaign_id", STRING, "The campaign that the source names; null: none."),
        Column("context", pa.map_(STRING, STRING), "Attributes of the exposure by name; null: none are configured."),
        Column("landed_on", DATE, "The day the source delivered it, when it became known."),
    ),
)

QUARANTINE = Table(
    "quarantine",
    "One row of the source that was rejected.",
    (
        Column(
            "reason",
            STRING,
            "Why: null user, unknown event, unparsable time, future time, time in milliseconds, …",
        ),
        Column(
            "raw",
            STRING,
            "What is kept of the source's row, as JSON: the columns that the mapping reads, or all (raw_content).",
        ),
        Column("landed_on", DATE, "The day the source delivered it."),
    ),
)

STOPPED_QUARANTINE = Table(
    "stopped_quarantine",
    "One row of the source that was rejected on a day whose ingest was stopped, so that nothing of it was published.",
    (
        Column("reason", STRING, "Why, as in quarantine."),
        Column(
            "raw",
            STRING,
            "What is kept of the source's row, as JSON: the columns that the mapping reads, or all (raw_content).",
        ),
        RUN_ID,
        Column("landed_on", DATE, "The day the source delivered it. Once the day is published, its rows go."),
    ),
)

ACTIVITY = Table(
    "activity",
    "One user's events of one kind on one local date, as they landed on one day.",
    (
        Column("user_id", STRING, "The user."),
        Column("event", STRING, "exposure, or the name of a stage."),
        Column("event_date", DATE, "The date of the events in the funnel's time zone."),
        Column("n", LONG, "How many events."),
        Column("first_time", TIMESTAMP, "The earliest of them."),
        Column("last_time", TIMESTAMP, "The latest of them."),
        Column("landed_on", DATE, "The day the source delivered them."),
    ),
)


def all_tables(settings: Settings) -> Mapping[str, Table]:
    """Every table of the warehouse by name.

    Feature columns follow `[features]`, label and score columns follow `funnel.stages`.
    """
    tables = [
        EVENTS,
        QUARANTINE,
        _users(settings),
        ACTIVITY,
        _known_users(settings),
        _examples(settings),
        _user_scores(settings),
        RUNS,
        METRICS,
        AUDITS,
        _feature_samples(settings),
        BASELINES,
        TARGETS,
        EXPORTS,
        STOPPED_QUARANTINE,
        ERASURES,
    ]
    return {table.name: table for table in tables}


CONSENT_AT = Column(
    "consent_at", TIMESTAMP, "When the consent was given or withdrawn, by the source's updated_at; null: unknown."
)
CONSENT_ORDER = Column(
    "consent_order",
    LONG,
    "When the consent was given or withdrawn, in microseconds since 1970: by updated_at, or else by the landing day.",
)


def _users(settings: Settings) -> Table:
    return Table(
        "users",
        "One user's profile as it landed on one day.",
        (
            Column("user_id", STRING, "The user."),
            *contact_columns(settings),
            *([CONSENT_AT] if settings.has_update_times else []),
            *columns_of(attribute_features(settings)),
            Column("landed_on", DATE, "The day the source delivered the profile."),
        ),
    )


def _known_users(settings: Settings) -> Table:
    return Table(
        "known_users",
        "One user as known on a date. Derived from users and activity, and rebuilt every 7 nights.",
        (
            Column("user_id", STRING, "The user."),
            Column("profile_on", DATE, "When the newest profile landed; null: none has."),
            *contact_columns(settings),
            *([CONSENT_ORDER] if settings.has_update_times else []),
            *columns_of(attribute_features(settings)),
            Column(
                "seen_on",
                DATE,
                "First local date of a landed event; where the source has users, of one of the last stage. Null: none.",
            ),
            Column("completed_on", DATE, "First local date of a landed event of the last stage; null: none."),
            Column("made_from", STRING, "Digest of the SQL and files behind the rows; another digest: rebuilt."),
            Column("as_of", DATE, "The date: only what had landed by its end is known."),
        ),
    )


def _examples(settings: Settings) -> Table:
    stages = settings.funnel.stages
    return Table(
        "examples",
        "One exposure with the user's features on the evening before, its context and its labels.",
        (
            Column("exposure_id", STRING, "The exposure's event_id."),
            Column("user_id", STRING, "The user."),
            Column("exposure_time", TIMESTAMP, "When the message went out."),
            Column("exposure_date", DATE, "Its date in the funnel's time zone."),
            Column("feature_as_of", DATE, "The evening that the features are as of: the day before exposure_date."),
            *columns_of(declared_features(settings)),
            *(
                Column(
                    f"observed_{stage.name}",
                    INT,
                    f"1 if {stage.name} followed within {stage.window_days} days, else 0; null until mature.",
                )
                for stage in stages
            ),
            *(
                Column(
                    f"mature_{stage.name}",
                    BOOLEAN,
                    f"Whether the window of {stage.window_days} days had passed by the end of as_of.",
                )
                for stage in stages
            ),
            *(
                Column(
                    f"label_{stage.name}",
                    INT,
                    f"1 if {stage.name} was observed or a later mature stage implies it, else 0; null until mature.",
                )
                for stage in stages
            ),
            Column("as_of", DATE, "The date that the examples were built for; nothing later is known to them."),
        ),
    )


def _user_scores(settings: Settings) -> Table:
    stages = settings.funnel.stages
    return Table(
        "user_scores",
        "One eligible user's scores on one night.",
        (
            Column("user_id", STRING, "The user."),
            *(
                Column(
                    f"p_{stage.name}",
                    DOUBLE,
                    f"Calibrated probability, 0 to 1, that {stage.name} follows the next message "
                    f"within {stage.window_days} days.",
                )
                for stage in stages
            ),
            *(
                Column(
                    f"raw_{stage.name}",
                    DOUBLE,
                    f"The model's probability of {stage.name} before calibration, 0 to 1; breaks ties.",
                )
                for stage in stages
            ),
            *(
                Column(
                    f"band_{stage.name}", INT, f"Rank of {stage.name} among the night's users, 1 to 10; 10: best tenth."
                )
                for stage in stages
            ),
            Column("feature_as_of", DATE, "The evening that the features are as of: ds."),
            Column("model_version", STRING, "The model that scored."),
            RUN_ID,
            Column("code_version", STRING, "The version of Funnelcast that scored."),
            Column("scored_at", TIMESTAMP, "When the scores were made."),
            Column("ds", DATE, "The night."),
        ),
    )


def _feature_samples(settings: Settings) -> Table:
    return Table(
        "feature_samples",
        "The features of one sampled user on one night; the same users are sampled every night.",
        (
            Column("user_id", STRING, "The user."),
            *columns_of(user_features(settings)),
            Column("ds", DATE, "The night, or the date that a model was trained as of."),
        ),
    )


def columns_of(features: Iterable[Feature]) -> list[Column]:
    """The features' columns, in their order."""
    return [Column(each.name, ARROW_TYPES[each.type], each.description) for each in features]


def contact_columns(settings: Settings) -> list[Column]:
    """Whether and when a user may be texted: consent, and the time zone where the source maps one."""
    consent = Column(
        "consent", BOOLEAN, "Whether the user may be texted; false withdraws it. Null: the source says nothing."
    )
    zone = Column("time_zone", STRING, "The user's own time zone, an IANA name; null: the source says nothing.")
    return [consent, zone] if settings.source.has_time_zones else [consent]


def profile_columns(settings: Settings) -> dict[str, pa.DataType]:
    """A user's declared attributes."""
    return {each.name: each.type for each in columns_of(attribute_features(settings))}


def feature_columns(settings: Settings) -> dict[str, pa.DataType]:
    """Everything `sql/spark/features.sql` computes for a row of the spine, in its order."""
    return {each.name: each.type for each in columns_of(user_features(settings))}
