"""Files of a simulated company: a Parquet file a day, its text columns made without a loop over rows."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.simulate.behaviour import (
    ACQUISITIONS,
    CITY_TIERS,
    DAY_MS,
    HOUR_MS,
    OFFERS,
    STAGES,
    Ints,
    Population,
    Response,
)

EVENT_TYPES = ("sms_sent", "sms_click", "register", "complete_application")
UNKNOWN_TYPES = ("sms_delivered", "page_view", "REGISTER?")
GARBAGE_TIMES = (None, "", "not a time", "2026-13-45T27:61:00.000+08:00")
# A row's place in this tuple is its `fate`; from the third on it is also the reason it is broken.
FATES = ("clean", "duplicate", "null_user", "unknown_event", "bad_time", "future_time")
CLEAN, DUPLICATE, NULL_USER, UNKNOWN_EVENT, BAD_TIME, FUTURE_TIME = range(len(FATES))

EVENT = np.dtype(
    [
        ("id", np.uint64),
        ("user", np.int32),
        ("type", np.int8),
        ("time", np.int64),  # UTC ms
        ("campaign", np.int32),
        ("offer", np.int8),
        ("landing", np.int32),  # days after the start
        ("fate", np.int8),
    ]
)
"""An event on its way to a file, in 31 bytes: codes in place of text, -1 for null."""

EVENT_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "uid", "type", "ts", "campaign", "offer")])
USER_SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("age", pa.int32()),
        ("city_tier", pa.string()),
        ("acquisition", pa.string()),
        ("credit_limit", pa.float64()),
        ("sms_consent", pa.bool_()),
    ]
)
TRUTH_SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("user_id", pa.string()),
        ("sent_at", pa.timestamp("us", tz="UTC")),
        ("sent_on", pa.date32()),
        ("campaign_id", pa.string()),
        ("offer", pa.string()),
        *[(f"p_{stage}", pa.float64()) for stage in STAGES],
        *[(f"y_{stage}", pa.int8()) for stage in STAGES],
    ]
)


class LocalClock:
    """UTC milliseconds to local ones and back, by a table of offsets: no zone lookup a row.

    A cell a half hour is enough: clocks change on the hour or, on Lord Howe Island, at half past in UTC.

    >>> clock = LocalClock("Asia/Shanghai", date(2026, 1, 1), 1)
    >>> clock.text(clock.utc(clock.midnight(0) + np.array([9 * HOUR_MS]))).to_pylist()
    ['2026-01-01T09:00:00.000+08:00']
    """

    CELL_MS = HOUR_MS // 2

    def __init__(self, timezone: str, start: date, days: int) -> None:
        zone, hours = ZoneInfo(timezone), 24 * (days + 2)
        self._first_day = (start - date(1970, 1, 1)).days
        self._origin = (self._first_day - 1) * DAY_MS
        cells = (self._origin + np.arange(2 * hours) * self.CELL_MS) // 1000
        local = (datetime.fromtimestamp(second, zone).utcoffset() for second in cells.tolist())
        self._offsets = np.array([(offset or timedelta()) // timedelta(milliseconds=1) for offset in local])

    def midnight(self, day: int) -> int:
        """Local ms at which the `day`-th day after the start begins."""
        return (self._first_day + day) * DAY_MS

    def utc(self, local: Ints) -> Ints:
        # The first offset is taken some hours off and may lie across a change of clocks; the second does not.
        return local - self._offset(local - self._offset(local))

    def day(self, utc: Ints) -> Ints:
        """Local days after the start."""
        return (utc + self._offset(utc)) // DAY_MS - self._first_day

    def text(self, utc: Ints) -> pa.StringArray:
        """ISO 8601 with milliseconds and the offset."""
        offset = self._offset(utc)
        kinds, kind = np.unique(offset // 60_000, return_inverse=True)
        suffixes = [f"{'-' if each < 0 else '+'}{abs(each) // 60:02d}:{abs(each) % 60:02d}" for each in kinds]
        local = pa.array((utc + offset).view("datetime64[ms]")).cast(pa.string())
        chars = np.empty((len(utc), 29), dtype=np.uint8)
        written = np.frombuffer(local.buffers()[2] or b"", dtype=np.uint8)
        chars[:, :23] = written[: 23 * len(utc)].reshape(-1, 23)
        chars[:, 10] = ord("T")
        chars[:, 23:] = np.array(suffixes, dtype="S6").view(np.uint8).reshape(-1, 6)[kind]
        return _fixed_width(chars)

    def _offset(self, utc: Ints) -> Ints:
        return self._offsets[(utc - self._origin) // self.CELL_MS]


class CompanyFiles:
    """Writes `events/`, `users/` and `truth/` under a folder, a day at a time.

    Args:
        salt: Shifts event ids, so that those of two seeds differ.
        campaigns: Campaign ids; an event's `campaign` is a place in it.
    """

    def __init__(
        self, out: Path, start: date, clock: LocalClock, users: int, salt: int, campaigns: Sequence[str]
    ) -> None:
        self._out, self._start, self._clock, self._salt = out, start, clock, np.uint64(salt)
        self._campaigns = _names(campaigns)
        self._uids = pc.binary_join_element_wise(
            "u", pc.utf8_lpad(pa.array(np.arange(users)).cast(pa.string()), 8, "0"), ""
        )
        truth = out / "truth" / "exposures.parquet"
        truth.parent.mkdir(parents=True)
        text = ["user_id", "campaign_id", "offer"]
        self._truth = pq.ParquetWriter(truth, TRUTH_SCHEMA, use_dictionary=text)

    def close(self) -> None:
        """Finish the truth, which stays open from day to day."""
        self._truth.close()

    def write_events(self, day: int, events: NDArray[np.void]) -> None:
        """Shape: (n,) of `EVENT`."""
        times = self._clock.text(events["time"])
        bad = events["fate"] == BAD_TIME
        garbage = _names(GARBAGE_TIMES).take(pa.array(events["id"][bad] % np.uint64(len(GARBAGE_TIMES))))
        columns = [
            self._event_ids(events["id"]),
            _taken(self._uids, events["user"]),
            _taken(_names(EVENT_TYPES + UNKNOWN_TYPES), events["type"]),
            pc.replace_with_mask(times, pa.array(bad), garbage),
            _taken(self._campaigns, events["campaign"]),
            _taken(_names(OFFERS), events["offer"]),
        ]
        self._write_day("events", day, columns, EVENT_SCHEMA, ["uid", "type", "campaign", "offer"])

    def write_users(self, day: int, users: Ints, population: Population) -> None:
        """Shape: users (n,), each once."""
        limit = population.limit[users]
        columns = [
            self._uids.take(pa.array(users)),
            population.age[users],
            _taken(_names(CITY_TIERS), population.tier[users]),
            _taken(_names(ACQUISITIONS), population.acquisition[users]),
            pa.array(limit, mask=np.isnan(limit)),
            population.consent[users],
        ]
        self._write_day("users", day, columns, USER_SCHEMA, ["city_tier", "acquisition"])

    def write_truth(self, day: int, exposures: NDArray[np.void], response: Response) -> None:
        """A row group of exposures sent on `day` with what they lead to. Shape: (n,) of `EVENT`."""
        sent_on = np.full(len(exposures), np.datetime64(self._start + timedelta(days=day), "D"))
        columns = [
            self._event_ids(exposures["id"]),
            _taken(self._uids, exposures["user"]),
            pa.array(exposures["time"] * 1000, pa.timestamp("us", tz="UTC")),
            sent_on,
            _taken(self._campaigns, exposures["campaign"]),
            _taken(_names(OFFERS), exposures["offer"]),
            *response.probability,
            *response.outcome.astype(np.int8),
        ]
        if len(exposures):
            self._truth.write_table(pa.table(columns, schema=TRUTH_SCHEMA))

    def _write_day(self, kind: str, day: int, columns: list[Any], schema: pa.Schema, text: list[str]) -> None:
        folder = self._out / kind / (self._start + timedelta(days=day)).isoformat()
        folder.mkdir(parents=True)
        pq.write_table(pa.table(columns, schema=schema), folder / "part-0.parquet", use_dictionary=text)

    def _event_ids(self, numbers: Ints) -> pa.StringArray:
        """16 hexadecimal digits that give away neither order nor kind; distinct numbers stay distinct.

        The mixing steps are those of SplitMix64 (Steele, Lea and Flood, 2014), each of which can be undone.
        """
        mixed = numbers + self._salt
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
        octets = mixed.astype(">u8").view(np.uint8).reshape(-1, 8)
        nibbles = np.stack([octets >> 4, octets & 15], axis=2).reshape(-1, 16)
        return _fixed_width(np.frombuffer(b"0123456789abcdef", dtype=np.uint8)[nibbles])


def _fixed_width(chars: NDArray[np.uint8]) -> pa.StringArray:
    """ASCII of shape (n, width) as n strings, over the same memory."""
    rows, width = chars.shape
    ends = np.arange(rows + 1, dtype=np.int32) * np.int32(width)
    return pa.StringArray.from_buffers(rows, pa.py_buffer(ends), pa.py_buffer(np.ascontiguousarray(chars)))


def _names(names: Sequence[str | None]) -> pa.StringArray:
    return pa.array(names, pa.string())


def _taken(names: pa.StringArray, codes: Ints) -> pa.StringArray:
    """The names at the codes, null at -1."""
    return names.take(pa.array(codes, mask=codes < 0))
