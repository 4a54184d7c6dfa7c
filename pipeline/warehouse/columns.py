"""The columns that follow from the configuration: declared features, consent and time zone."""

from collections.abc import Iterable

import pyarrow as pa

from pipeline.config.features import Feature, attribute_features, user_features
from pipeline.config.settings import Settings
from pipeline.warehouse.schema import BOOLEAN, DOUBLE, INT, LONG, STRING, Column

ARROW_TYPES = {"string": STRING, "int32": INT, "int64": LONG, "float64": DOUBLE}


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
