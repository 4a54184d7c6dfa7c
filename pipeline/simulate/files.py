"""Files of a simulated company: one Parquet file per day, with text columns made without a loop over rows."""

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.simulate.behaviour import (
    ACQUISITIONS,
    CITY_TIERS,
    OFFERS,
    STAGES,
    Ints,
    Population,
    Response,
)
from pipeline.simulate.clock import LocalClock, make_fixed_width_strings

EVENT_TYPES = ("sms_sent", "sms_click", "register", "complete_application")
UNKNOWN_TYPES = ("sms_delivered", "page_view", "REGISTER?")
GARBAGE_TIMES = (None, "", "not a time", "2026-13-45T27:61:00.000+08:00")
# A row's `fate` is an index into this tuple; from the third on it is also the reason the row is broken.
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
"""An event on its way to a file, in 31 bytes: codes instead of text, -1 for null."""

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


class CompanyFiles:
    """Writes `events/`, `users/` and `truth/` under a folder, one day at a time.

    Args:
        salt: Shifts event ids, so that those of two seeds differ.
        campaigns: Campaign ids; an event's `campaign` is an index into them.
    """

    def __init__(
        self, out: Path, start: date, clock: LocalClock, users: int, salt: int, campaigns: Sequence[str]
    ) -> None:
        self._out, self._start, self._clock, self._salt = out, start, clock, np.uint64(salt)
        self._campaigns = _make_strings(campaigns)
        self._uids = pc.binary_join_element_wise(
            "u", pc.utf8_lpad(pa.array(np.arange(users)).cast(pa.string()), 8, "0"), ""
        )
        truth = out / "truth" / "exposures.parquet"
        truth.parent.mkdir(parents=True)
        text = ["user_id", "campaign_id", "offer"]
        self._truth = pq.ParquetWriter(truth, TRUTH_SCHEMA, use_dictionary=text)

    def close(self) -> None:
        """Close the file of the truth, which stays open from day to day."""
        self._truth.close()

    def write_events(self, day: int, events: NDArray[np.void]) -> None:
        """Shape: (n,) of `EVENT`."""
        times = self._clock.to_text(events["time"])
        bad = events["fate"] == BAD_TIME
        garbage = _make_strings(GARBAGE_TIMES).take(pa.array(events["id"][bad] % np.uint64(len(GARBAGE_TIMES))))
        columns = [
            self._make_event_ids(events["id"]),
            _look_up(self._uids, events["user"]),
            _look_up(_make_strings(EVENT_TYPES + UNKNOWN_TYPES), events["type"]),
            pc.replace_with_mask(times, pa.array(bad), garbage),
            _look_up(self._campaigns, events["campaign"]),
            _look_up(_make_strings(OFFERS), events["offer"]),
        ]
        self._write_day("events", day, columns, EVENT_SCHEMA, ["uid", "type", "campaign", "offer"])

    def write_users(self, day: int, users: Ints, population: Population) -> None:
        """Shape: users (n,), each once."""
        limit = population.limit[users]
        columns = [
            self._uids.take(pa.array(users)),
            population.age[users],
            _look_up(_make_strings(CITY_TIERS), population.tier[users]),
            _look_up(_make_strings(ACQUISITIONS), population.acquisition[users]),
            pa.array(limit, mask=np.isnan(limit)),
            population.consent[users],
        ]
        self._write_day("users", day, columns, USER_SCHEMA, ["city_tier", "acquisition"])

    def write_truth(self, day: int, exposures: NDArray[np.void], response: Response) -> None:
        """A row group of exposures sent on `day`, with their outcomes. Shape: (n,) of `EVENT`."""
        sent_on = np.full(len(exposures), np.datetime64(self._start + timedelta(days=day), "D"))
        columns = [
            self._make_event_ids(exposures["id"]),
            _look_up(self._uids, exposures["user"]),
            pa.array(exposures["time"] * 1000, pa.timestamp("us", tz="UTC")),
            sent_on,
            _look_up(self._campaigns, exposures["campaign"]),
            _look_up(_make_strings(OFFERS), exposures["offer"]),
            *response.probability,
            *response.outcome.astype(np.int8),
        ]
        if len(exposures):
            self._truth.write_table(pa.table(columns, schema=TRUTH_SCHEMA))

    def _write_day(self, kind: str, day: int, columns: list[Any], schema: pa.Schema, text: list[str]) -> None:
        folder = self._out / kind / (self._start + timedelta(days=day)).isoformat()
        folder.mkdir(parents=True)
        pq.write_table(pa.table(columns, schema=schema), folder / "part-0.parquet", use_dictionary=text)

    def _make_event_ids(self, numbers: Ints) -> pa.StringArray:
        """16 hexadecimal digits that reveal neither order nor kind; distinct numbers stay distinct.

        The mixing steps are those of SplitMix64 (Steele, Lea and Flood, 2014), each of which is invertible.
        """
        mixed = numbers + self._salt
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
        octets = mixed.astype(">u8").view(np.uint8).reshape(-1, 8)
        nibbles = np.stack([octets >> 4, octets & 15], axis=2).reshape(-1, 16)
        return make_fixed_width_strings(np.frombuffer(b"0123456789abcdef", dtype=np.uint8)[nibbles])


def _make_strings(names: Sequence[str | None]) -> pa.StringArray:
    return pa.array(names, pa.string())


def _look_up(names: pa.StringArray, codes: Ints) -> pa.StringArray:
    """The names at these indices, null at -1."""
    return names.take(pa.array(codes, mask=codes < 0))
