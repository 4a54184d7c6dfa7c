"""What the model sees of a user and an exposure. Each feature is declared here, once.

Table columns, SQL, audit, drift and the model's inputs follow from the declaration. A new aggregate takes a branch in
`behaviour_features` and, for a new function, an expression in `sql/spark/features.sql`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pipeline.config.settings import Settings

WEEK = 7
"""Days. Counts over fewer follow the days of the week on which a company sends its messages."""


@dataclass(frozen=True)
class Aggregate:
    """A function of a user's events of one kind.

    Args:
        function: which expression of `sql/spark/features.sql` computes it.
        window_days: the days it covers; `as_of` is the last of them.
    """

    function: Literal["count", "days_since"]
    event: str
    window_days: int


@dataclass(frozen=True)
class UserAttribute:
    """A value of the user's newest profile; the column bears its name.

    Args:
        is_static: it never changes, so that the first value that lands holds for all of the user's time.
    """

    is_static: bool = False


@dataclass(frozen=True)
class ExposureAttribute:
    """A value of the exposure itself. A night takes it from `[scoring] context`, by this name."""

    name: str


@dataclass(frozen=True)
class Feature:
    """One input of the model.

    Args:
        name: its column.
        source: where its values come from.
        description: what a catalog says of the column, in at most 255 characters.
        type: the column's type, by Arrow's name.
        encoding: how the model reads it: as a number, as a number on a log scale, or as a category.
        minimum: a smaller value fails the audit of the examples; None checks nothing.
        warm_up_days: until history is this long, its values grow with history, whatever users do.
        is_steady: whether it looks alike from night to night as long as users do; only then is its drift checked.
    """

    name: str
    source: Aggregate | UserAttribute | ExposureAttribute
    description: str
    type: Literal["string", "int32", "int64", "float64"]
    encoding: Literal["standard", "log", "category"]
    minimum: int | None = None
    warm_up_days: int = 0
    is_steady: bool = True

    @property
    def meaning(self) -> str:
        """What its values are: a model takes only values of the meaning that it has learnt from.

        >>> _days_since("click", 30).meaning
        'days_since of click in 30 days'
        """
        if isinstance(self.source, Aggregate):
            return f"{self.source.function} of {self.source.event} in {self.source.window_days} days"
        if isinstance(self.source, ExposureAttribute):
            return f"the exposure's {self.source.name}"
        return "the first value of the attribute" if self.source.is_static else "the newest value of the attribute"

    @property
    def is_numeric(self) -> bool:
        return self.encoding != "category"


def declared_features(settings: "Settings") -> tuple[Feature, ...]:
    """Every feature, in the order of the columns: behaviour, the user's attributes, the exposure's."""
    declared = settings.features
    return (
        *behaviour_features(settings.funnel.event_kinds, declared.windows_days),
        *(_user_attribute(name, is_numeric=False, is_static=name in declared.static) for name in declared.categorical),
        *(_user_attribute(name, is_numeric=True, is_static=name in declared.static) for name in declared.numeric),
        *exposure_features(declared.context),
    )


def behaviour_features(events: Sequence[str], windows_days: Sequence[int]) -> list[Feature]:
    """Each event's counts by window, and the days since the last one (null: none within the longest window)."""
    return [
        feature
        for event in events
        for feature in (*(_count(event, days) for days in windows_days), _days_since(event, max(windows_days)))
    ]


def exposure_features(names: Iterable[str]) -> list[Feature]:
    """The exposure's attributes that the model sees."""
    return [
        Feature(
            name=f"context_{name}",
            source=ExposureAttribute(name),
            description=f"The exposure's {name}; null: the source gives none.",
            type="string",
            encoding="category",
            is_steady=False,
        )
        for name in names
    ]


def _count(event: str, days: int) -> Feature:
    return Feature(
        name=f"{event}_n_{days}d",
        source=Aggregate("count", event, days),
        description=f"Events of kind {event} in the {days} days up to the features' date.",
        type="int64",
        encoding="log",
        minimum=0,
        warm_up_days=days,
        is_steady=days >= WEEK,
    )


def _days_since(event: str, days: int) -> Feature:
    return Feature(
        name=f"{event}_days_since",
        source=Aggregate("days_since", event, days),
        description=f"Days from the last {event} to the features' date; null: none in {days} days.",
        type="int32",
        encoding="log",
        is_steady=False,
    )


def _user_attribute(name: str, *, is_numeric: bool, is_static: bool) -> Feature:
    kind = "a number" if is_numeric else "a category"
    unchanging = ", which never changes" if is_static else ""
    return Feature(
        name=name,
        source=UserAttribute(is_static),
        description=f"The user's {name}, {kind}{unchanging}; null: the source says nothing.",
        type="float64" if is_numeric else "string",
        encoding="standard" if is_numeric else "category",
    )


def user_features(settings: "Settings") -> list[Feature]:
    """What is known of a user without an exposure: the columns of `sql/spark/features.sql`, in its order."""
    return [each for each in declared_features(settings) if not isinstance(each.source, ExposureAttribute)]


def attribute_features(settings: "Settings") -> list[Feature]:
    """What the source tells of a user: the attributes that `[features]` names."""
    return [each for each in declared_features(settings) if isinstance(each.source, UserAttribute)]


def static_names(settings: "Settings") -> list[str]:
    """The attributes that never change."""
    return [
        each.name
        for each in attribute_features(settings)
        if isinstance(each.source, UserAttribute) and each.source.is_static
    ]


def aggregates(features: Iterable[Feature]) -> dict[str, Aggregate]:
    """What to compute from a user's events, by column."""
    return {each.name: each.source for each in features if isinstance(each.source, Aggregate)}


def context_names(features: Iterable[Feature]) -> dict[str, str]:
    """The names of an exposure's attributes in the configuration, by column."""
    return {each.name: each.source.name for each in features if isinstance(each.source, ExposureAttribute)}


def longest_window(settings: "Settings") -> int:
    """The days of events that a night needs for its features."""
    return max(each.window_days for each in aggregates(declared_features(settings)).values())
