"""Stamps as steps of a regular grid, by the time that elapsed between them, and new stamps before and after them.

    rows      no stamps: each row is a step
    clock     steps of a fixed number of nanoseconds; of days, in the wall clock of the stamps' zone
    months    steps of whole months, whatever their lengths

What is not there is a gap of blank steps: nights, holidays, lost seconds.  Stamps that lie on no grid get a fine one, `FINE`
of whose steps are their usual distance, and each lies at the step nearest to it.  A frequency that an index has only
labels new rows.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

FINE = 4
SLACK = 0.02  # of a step: how far off the grid stamps may lie
SPARSE = 20  # steps of the grid that a row may stand for, on average
DAY = 86_400_000_000_000
EPOCH = pd.Timestamp(
    "1970-01-05"
).value  # a Monday, so that phases of days and weeks start where calendars do
TEXT = (
    "%Y-%m",
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%dT%H:%M:%S",
    "%Y/%m/%d",
    "%d.%m.%Y",
    "%m/%d/%Y",
    "%Y%m%d",
    "%Y",
    "%H:%M",
    "%H:%M:%S",
)
SUGGESTED = {  # periods of calendars, in nanoseconds
    "day": DAY,
    "week": 7 * DAY,
    "year": 365 * DAY,
}


@dataclass(frozen=True)
class Labels:
    """How stamps are written: ``kind`` "time", "period" or "text", ``form`` a frequency or format, and the time ``zone``."""

    kind: str
    form: str = ""
    zone: str | None = None

    def write(self, stamps: pd.DatetimeIndex) -> Any:
        """Stamps without a zone, in UTC where there is one, as they came."""
        if self.zone is not None:
            return stamps.tz_localize("UTC").tz_convert(self.zone)
        if self.kind == "period":
            return stamps.to_period(self.form)
        if self.kind == "text":
            return pd.Index(stamps.strftime(self.form), dtype=object)
        return stamps


@dataclass(frozen=True)
class Grid:
    """Steps of ``size`` nanoseconds or months, shifted by ``offset``; a row is ``every`` of them after the one before.

    ``days`` are the weekdays that occur, if not all do; ``zone`` is where days are counted; ``anchor`` the day of months.
    """

    kind: str = "rows"
    size: int = 1
    offset: int = 0
    every: int = 1
    days: tuple[int, ...] = ()
    zone: str | None = None
    anchor: int = 1

    def steps(self, stamps: pd.DatetimeIndex) -> np.ndarray:
        """Which step each stamp (UTC, or without a zone) is nearest to, int64."""
        if self.kind == "months":
            local = self._local(stamps)
            return (
                ((local.year * 12 + local.month - 1 - self.offset) // self.size).to_numpy().astype(np.int64)
            )
        ns = _nanoseconds(self._local(stamps)) - EPOCH - self.offset
        return np.rint(ns / self.size).astype(np.int64)

    def _local(self, stamps: pd.DatetimeIndex) -> pd.DatetimeIndex:
        return (
            stamps if self.zone is None else stamps.tz_localize("UTC").tz_convert(self.zone).tz_localize(None)
        )

    def beyond(self, stamp: pd.Timestamp, count: int) -> pd.DatetimeIndex:
        """The next ``count`` stamps after one, or those before it if ``count`` is negative, in the order of time."""
        local = self._local(pd.DatetimeIndex([stamp]))[0]
        sign = 1 if count > 0 else -1
        k = sign * np.arange(1, abs(count) + 1)
        if self.kind == "months":
            months = local.year * 12 + local.month - 1 + k * self.size * self.every
            first = pd.to_datetime([f"{m // 12:04d}-{m % 12 + 1:02d}-01" for m in months])
            day = np.minimum(self.anchor, first.days_in_month)
            new = first + pd.to_timedelta(day - 1, unit="D") + (local - local.normalize())
        elif self.days:
            reach = local + pd.to_timedelta(
                sign * np.arange(1, 8 * abs(count) + 8) * (self.size // DAY), unit="D"
            )
            new = reach[np.isin(reach.day_of_week, self.days)][: abs(count)]
        else:
            new = local + pd.to_timedelta(k * self.every * self.size, unit="ns")
        new = pd.DatetimeIndex(new).sort_values()
        if self.zone is not None:  # a wall clock's missing hour is the one after it
            new = new.tz_localize(self.zone, nonexistent="shift_forward", ambiguous=np.ones(len(new), bool))
            new = new.tz_convert("UTC").tz_localize(None)
        return new

    def suggested(self) -> list[int]:
        """Periods that calendars suggest, in steps."""
        if self.kind == "rows":
            return []
        if self.kind == "months":
            return [p for p in {12 // self.size} if p > 1 and 12 % self.size == 0]
        out = [round(length / self.size) for length in SUGGESTED.values() if length >= 2 * self.size]
        if self.size == 7 * DAY:
            out = [52]
        return [p for p in out if p > 1]

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> Grid:
        """From JSON."""
        return cls(**{**body, "days": tuple(body["days"])})


def read_stamps(values: Any, name: str) -> tuple[pd.DatetimeIndex, Labels]:
    """Stamps of an index or column, without a zone (in UTC if they had one), and how they were written.

    ValueError, naming ``name``, for what is no time.

    >>> read_stamps(pd.Index(["2021-05", "2021-06"]), "month")[1]
    Labels(kind='text', form='%Y-%m', zone=None)
    """
    index = pd.Index(values)
    if isinstance(index, pd.PeriodIndex):
        return index.to_timestamp(how="start"), Labels("period", str(index.freqstr))
    if isinstance(index, pd.DatetimeIndex):
        return _without_zone(index, name)
    if pd.api.types.is_numeric_dtype(index.dtype):
        raise ValueError(
            f"{name} holds numbers, expected dates, times, periods or their text, such as '2021-05-31 13:00'"
        )
    if index.hasnans:
        raise ValueError(
            f"{name} has no stamp in row {int(np.flatnonzero(index.isna())[0])}; expected one in every row"
        )
    words = index.astype(object)
    if all(isinstance(w, str) for w in words):
        for form in TEXT:
            found = pd.to_datetime(words, format=form, errors="coerce")
            if not found.hasnans and list(found[:5].strftime(form)) == list(words[:5]):
                return pd.DatetimeIndex(found), Labels("text", form)
    try:
        found = pd.DatetimeIndex(pd.to_datetime(words, utc=any(getattr(w, "tzinfo", None) for w in words)))
    except (ValueError, TypeError) as error:
        bad = next((w for w in words if pd.isna(pd.to_datetime(w, errors="coerce"))), words[0])
        raise ValueError(
            f"{name} has {bad!r}, which is no time; expected dates, times, periods or their text, such as '2021-05-31 13:00'"
        ) from error
    return _without_zone(found, name)


def _without_zone(index: pd.DatetimeIndex, name: str) -> tuple[pd.DatetimeIndex, Labels]:
    if index.hasnans:
        raise ValueError(
            f"{name} has no stamp in row {int(np.flatnonzero(index.isna())[0])}; expected one in every row"
        )
    if index.tz is None:
        return index, Labels("time")
    return index.tz_convert("UTC").tz_localize(None), Labels("time", zone=str(index.tz))


def check_stamps(stamps: pd.DatetimeIndex, name: str, whose: str = "") -> None:
    """Refuse two rows of one time in a series."""
    if not stamps.is_unique:
        again = stamps[stamps.duplicated()][0]
        raise ValueError(
            f"{name} has {again} more than once{whose}; expected one row for each time: aggregate them, name the column that "
            "tells series apart, Series(id=...), or where clocks were set back give stamps their zone, "
            "tz_localize(zone, ambiguous='infer')"
        )


def find_grid(series: list[pd.DatetimeIndex], zone: str | None) -> Grid:
    """The grid of sorted stamps of several series, without a zone; ``zone`` is where wall clocks run."""
    local = [s if zone is None else s.tz_localize("UTC").tz_convert(zone).tz_localize(None) for s in series]
    every = pd.DatetimeIndex(np.concatenate([s.to_numpy() for s in local]))
    gaps = np.concatenate([np.diff(_nanoseconds(s)) for s in local])
    if not len(gaps):
        return Grid("clock", DAY, int(np.mod(_nanoseconds(every)[0] - EPOCH, DAY)))
    clock = _nanoseconds(every) % DAY
    whole_days = len(np.unique(clock)) == 1
    if whole_days and gaps.min() >= 28 * DAY and (months := _months(local, every)) is not None:
        return Grid(**{**months.to_json(), "zone": zone})
    if not whole_days:  # hours are counted in elapsed time, across changes of the clock
        gaps = np.concatenate([np.diff(_nanoseconds(s)) for s in series])
        every, zone = pd.DatetimeIndex(np.concatenate([s.to_numpy() for s in series])), None
    return _clock(gaps, every, zone, whole_days, sum(len(s) for s in series))


def _clock(gaps: np.ndarray, every: pd.DatetimeIndex, zone: str | None, whole_days: bool, rows: int) -> Grid:
    sizes, counts = np.unique(gaps, return_counts=True)
    usual = int(sizes[np.argmax(counts)])
    for size in dict.fromkeys((usual, int(np.gcd.reduce(gaps)))):
        off = np.abs(gaps / size - np.rint(gaps / size))
        if (
            off.max() <= SLACK
            and np.rint(gaps / size).min() >= 1
            and np.rint(gaps / size).sum() <= SPARSE * rows + 1000
        ):
            ns = _nanoseconds(every) - EPOCH
            offset = int(ns[0] % size)
            days = np.unique(every.day_of_week).tolist() if size == DAY else []
            few = tuple(int(d) for d in days) if whole_days and 0 < len(days) < 7 and len(every) >= 10 else ()
            return Grid("clock", size, offset, days=few, zone=zone if whole_days else None)
    middle = int(np.median(gaps))
    size = max(middle // FINE, int(gaps.sum() // (SPARSE * rows)), 1)
    return Grid(
        "clock", size, int((_nanoseconds(every)[0] - EPOCH) % size), every=max(1, round(middle / size))
    )


def _months(local: list[pd.DatetimeIndex], every: pd.DatetimeIndex) -> Grid | None:
    """A grid of months, if all stamps lie on the same day of theirs, or on their last."""
    day = every.day.to_numpy()
    anchor = int(day.max())
    if not np.all((day == anchor) | ((day == every.days_in_month.to_numpy()) & (day < anchor))):
        return None
    number = [(s.year * 12 + s.month - 1).to_numpy() for s in local]
    apart = np.concatenate([np.diff(n) for n in number])
    size = int(np.gcd.reduce(apart))
    offset = int(number[0][0] % size)
    return Grid("months", size, offset, anchor=anchor)


def _nanoseconds(stamps: pd.DatetimeIndex) -> np.ndarray:
    return stamps.as_unit("ns").asi8
