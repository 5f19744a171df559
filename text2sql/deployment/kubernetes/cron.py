"""One five-field cron expression, checked as strictly as the schedulers that get it would wish.

Kubernetes and Kubeflow Pipelines parse cron with robfig/cron: Sunday is 0 and never 7, ranges do not wrap around, and
an expression that never fires is accepted. Here it is refused, with what to write instead.
"""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from text2sql.errors import ConfigError

MONTHS = [name.upper() for name in calendar.month_abbr if name]
DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
LONGEST = {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}
"""Days of the months that have fewer than 31."""
UTC = "Etc/UTC"


@dataclass(frozen=True)
class Field:
    """One of the five, with its bounds and names."""

    title: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    """Of low, low + 1, …"""


FIELDS = (
    Field("minute", 0, 59),
    Field("hour", 0, 23),
    Field("day of the month", 1, 31),
    Field("month", 1, 12, tuple(MONTHS)),
    Field("day of the week", 0, 6, tuple(DAYS)),
)


@dataclass(frozen=True)
class Cron:
    """A valid expression: its text, and the values of each field."""

    text: str
    values: tuple[frozenset[int], ...]

    @property
    def everyday(self) -> bool:
        """Whether no day, month or weekday is left out."""
        return all(len(values) == f.high - f.low + 1 for values, f in zip(self.values[2:], FIELDS[2:], strict=True))


def parse_cron(text: str, where: str = "--schedule") -> Cron:
    """Check a cron expression.

    Args:
        where: who says it, for the message.

    Raises:
        ConfigError: what is wrong, with what to write instead.
    """
    words = text.split()
    if problem := _shape_problem(words):
        raise ConfigError([f"{where} {text!r}: {problem}"])
    values, problems = [], []
    for word, part in zip(words, FIELDS, strict=True):
        try:
            values.append(_values(word, part))
        except ValueError as error:
            problems.append(f"{where} {text!r}: {part.title} {word!r}: {error}")
    if problems:
        raise ConfigError(problems)
    _, _, days, months, weekdays = values
    if len(weekdays) == 7 and min(days) > max(LONGEST.get(month, 31) for month in months):
        names = ", ".join(MONTHS[month - 1] for month in sorted(months))
        raise ConfigError([f"{where} {text!r} never comes: day {min(days)} is in none of the months {names}"])
    return Cron(" ".join(words).upper(), tuple(values))


def _shape_problem(words: list[str]) -> str | None:
    if not words:
        return 'write five fields, e.g. "0 3 * * 1" for Mondays at 3'
    if words[0].startswith("@"):
        instead = MACROS.get(words[0].lower())
        return f"write five fields instead of {words[0]}" + (f': "{instead}"' if instead else "")
    if re.match(r"(CRON_)?TZ=", words[0]):
        return f"the time zone goes into --timezone {words[0].partition('=')[2]}"
    if len(words) == 6:
        return "six fields; leave the seconds out (Kubernetes takes five, and for Kubeflow they are added)"
    if len(words) != 5:
        return f"{len(words)} fields; write five: minute, hour, day of the month, month, day of the week"
    return None


def _values(word: str, part: Field) -> frozenset[int]:
    found: set[int] = set()
    for piece in word.split(","):
        found |= _piece(piece, part)
    return frozenset(found)


def _piece(piece: str, part: Field) -> set[int]:
    span, slash, step_text = piece.partition("/")
    if not span:
        raise ValueError("something is missing here; write e.g. * or 1,15")
    step = _step(step_text, part) if slash else 1
    if span == "*":
        low, high = part.low, part.high
    else:
        first, dash, last = span.partition("-")
        low = _number(first, part)
        high = _number(last, part) if dash else (part.high if slash else low)
        if low > high:
            raise ValueError(f"the range {span} runs backwards; write two, e.g. {first}-{part.high},{part.low}-{last}")
    return set(range(low, high + 1, step))


def _step(text: str, part: Field) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError(f"the step {text!r} must be a whole number above 0")
    if int(text) > part.high:
        raise ValueError(f"the step {text} is longer than the whole field ({part.low} to {part.high})")
    return int(text)


def _number(text: str, part: Field) -> int:
    if text.upper() in part.names:
        return part.low + part.names.index(text.upper())
    if not (text.isascii() and text.isdigit()):
        names = f" or {part.names[0]} to {part.names[-1]}" if part.names else ""
        raise ValueError(f"{text!r} is neither *, nor {part.low} to {part.high}{names}, nor a list or range of these")
    number = int(text)
    if not part.low <= number <= part.high:
        sunday = "; Sunday is 0" if part.names == tuple(DAYS) and number == 7 else ""
        raise ValueError(f"{text} is outside {part.low} to {part.high}{sunday}")
    return number


def check_zone(name: str) -> ZoneInfo:
    """A time zone of the IANA database.

    Raises:
        ConfigError: there is none of that name.
    """
    try:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*", name) or name.lower() == "local":
            raise ZoneInfoNotFoundError(name)
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError) as error:  # a folder of the database is an OSError
        raise ConfigError([f"--timezone {name!r} is no time zone; write e.g. Europe/Berlin or Etc/UTC"]) from error


def to_utc(cron: Cron, zone: ZoneInfo, now: datetime) -> Cron:
    """The same moments in UTC, for schedulers that know no time zones.

    Raises:
        ConfigError: no five fields say that, as with every zone that has summer time.
    """
    offsets = {(now + timedelta(days=days)).astimezone(zone).utcoffset() for days in range(0, 3 * 366, 7)}
    if len(offsets) > 1:
        why = f"--timezone {zone.key}: its clocks are put forward and back, and Kubeflow Pipelines knows no time zones"
        raise ConfigError([f"{why}; give the time in UTC without --timezone, or schedule on a kubernetes stack"])
    [offset] = offsets
    minutes = int((offset or timedelta()).total_seconds()) // 60
    moments = {divmod(hour * 60 + minute - minutes, 24 * 60) for hour in cron.values[1] for minute in cron.values[0]}
    days = {day for day, _ in moments}
    hours = frozenset(moment // 60 for _, moment in moments)
    minute_values = frozenset(moment % 60 for _, moment in moments)
    weekdays_only = all(
        len(values) == f.high - f.low + 1 for values, f in zip(cron.values[2:4], FIELDS[2:4], strict=True)
    )
    same_days = days == {0} or cron.everyday or (len(days) == 1 and weekdays_only)
    if not same_days or len(moments) != len(hours) * len(minute_values):
        raise ConfigError(
            [f"--schedule {cron.text!r} in {zone.key} is no cron expression in UTC; give the time in UTC instead"]
        )
    weekdays = cron.values[4] if cron.everyday else frozenset((day + min(days)) % 7 for day in cron.values[4])
    values = (minute_values, hours, *cron.values[2:4], weekdays)
    _, _, day, month, _ = cron.text.split()
    text = [_text(minute_values, FIELDS[0]), _text(hours, FIELDS[1]), day, month, _text(weekdays, FIELDS[4])]
    return Cron(" ".join(text), values)


def _text(values: frozenset[int], part: Field) -> str:
    return "*" if len(values) == part.high - part.low + 1 else ",".join(map(str, sorted(values)))
