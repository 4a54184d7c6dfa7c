"""Local time for arrays: UTC milliseconds to local days and ISO texts, and back, by a table of offsets."""

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.simulate.behaviour import DAY_MS, HOUR_MS, Ints


class LocalClock:
    """UTC milliseconds to local ones and back, by a table of offsets: no zone lookup per row.

    A cell per half hour is enough: clocks change on the hour or, on Lord Howe Island, at half past in UTC.

    >>> clock = LocalClock("Asia/Shanghai", date(2026, 1, 1), 1)
    >>> clock.to_text(clock.to_utc(clock.midnight(0) + np.array([9 * HOUR_MS]))).to_pylist()
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

    def to_utc(self, local: Ints) -> Ints:
        # The first offset is looked up some hours away, possibly across a change of clocks; the second is not.
        return local - self._offset(local - self._offset(local))

    def to_day(self, utc: Ints) -> Ints:
        """Local days since the start."""
        return (utc + self._offset(utc)) // DAY_MS - self._first_day

    def to_text(self, utc: Ints) -> pa.StringArray:
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
        return make_fixed_width_strings(chars)

    def _offset(self, utc: Ints) -> Ints:
        return self._offsets[(utc - self._origin) // self.CELL_MS]


def make_fixed_width_strings(chars: NDArray[np.uint8]) -> pa.StringArray:
    """ASCII of shape (n, width) as n strings, over the same memory."""
    rows, width = chars.shape
    ends = np.arange(rows + 1, dtype=np.int32) * np.int32(width)
    return pa.StringArray.from_buffers(rows, pa.py_buffer(ends), pa.py_buffer(np.ascontiguousarray(chars)))
