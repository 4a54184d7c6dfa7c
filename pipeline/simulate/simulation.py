"""What to simulate, and how much of it was written."""

from dataclasses import dataclass
from datetime import date, datetime
from zoneinfo import ZoneInfo

from pipeline.simulate.behaviour import OFFERS

FIRST_YEAR, LAST_YEAR = 1980, 2200


@dataclass(frozen=True)
class Simulation:
    """How large a company is, over which days, and how untidy its deliveries are.

    Attributes:
        sms_per_week: Mean texts per week of a user who still gets any; at most one per campaign.
        late_share: Share of events that land 1 to 5 days after their local date.
        duplicate_share: Share of events that are delivered again, the same day or up to 5 days later.
        broken_share: Rows that break the contract, in addition to a day's events, as a share of these.
        opt_out_share: Share of texts after which the user withdraws consent the same day.
        untracked_share: Share of stage events that have lost the id of the campaign that caused them.

    Raises:
        ValueError: a field is wrong; the message names it and quotes its value.
    """

    users: int = 20_000
    days: int = 120
    start: date = date(2026, 1, 1)
    timezone: str = "Asia/Shanghai"
    sms_per_week: float = 1.0
    late_share: float = 0.02
    duplicate_share: float = 0.01
    broken_share: float = 0.002
    opt_out_share: float = 0.002
    untracked_share: float = 0.1
    seed: int = 7

    def __post_init__(self) -> None:
        for name, least in (("users", 1), ("days", 1), ("seed", 0)):
            value = getattr(self, name)
            holds = isinstance(value, int) and value >= least
            self._require(holds, name, f"a whole number of at least {least}")
        for name in ("late_share", "duplicate_share", "broken_share", "opt_out_share", "untracked_share"):
            share = getattr(self, name)
            self._require(isinstance(share, int | float) and 0 <= share <= 1, name, "a share from 0 to 1")
        rate, most = self.sms_per_week, len(OFFERS)
        self._require(
            isinstance(rate, int | float) and 0 < rate <= most, "sms_per_week", f"more than 0, at most {most}"
        )
        try:
            ZoneInfo(self.timezone)
        except (KeyError, ValueError, OSError, TypeError):
            self._require(False, "timezone", "an IANA time zone such as 'Asia/Shanghai'")
        # A datetime is also a date, but would put its hour into folder names.
        is_date = isinstance(self.start, date) and not isinstance(self.start, datetime)
        in_time = is_date and FIRST_YEAR <= self.start.year < LAST_YEAR
        self._require(in_time, "start", f"a date from {FIRST_YEAR} on, before {LAST_YEAR}")
        ends = self.start.year + self.days // 365
        self._require(ends < LAST_YEAR, "days", f"a number whose last day is before {LAST_YEAR}")

    def _require(self, holds: bool, name: str, takes: str) -> None:
        if not holds:
            raise ValueError(f"{name}: got {getattr(self, name)!r}, takes {takes}")


@dataclass(frozen=True)
class Summary:
    """Counts of what was written: `rows` = `clean` + `duplicates` + the sum of `broken`.

    Attributes:
        exposures: Texts sent, one row each in the truth; `events` counts those that landed by the last day.
        late: Clean rows that landed after their local date.
        broken: Broken rows by reason: null_user, unknown_event, bad_time, future_time.
        events: Clean rows by the source's event name.
    """

    users: int
    profiles: int
    opt_outs: int
    exposures: int
    rows: int
    clean: int
    late: int
    duplicates: int
    broken: dict[str, int]
    events: dict[str, int]
