"""Cron expressions: what is taken, what is refused and with which words, and what is the same in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from hypothesis import given
from hypothesis import strategies as st

from text2sql.deployment.kubernetes.cron import FIELDS, check_zone, parse_cron, to_utc
from text2sql.errors import ConfigError

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "field", "values"),
    [
        ("0 3 * * 1", 4, {1}),
        ("*/15 * * * *", 0, {0, 15, 30, 45}),
        ("5-20/5,59 * * * *", 0, {5, 10, 15, 20, 59}),
        ("50/4 * * * *", 0, {50, 54, 58}),
        ("0 3 * jan-mar,DEC *", 3, {1, 2, 3, 12}),
        ("0 3 * * mon-fri", 4, {1, 2, 3, 4, 5}),
        ("0 3 29 2 *", 2, {29}),
        ("0 3 31 2 1", 4, {1}),
        ("  0   3 * * 0 ", 1, {3}),
    ],
)
def test_what_is_meant(text: str, field: int, values: set[int]):
    assert parse_cron(text).values[field] == values


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", 'write five fields, e.g. "0 3 * * 1"'),
        ("0 3 * *", "4 fields; write five: minute, hour"),
        ("0 0 3 * * 1", "six fields; leave the seconds out"),
        ("0 3 * * 1 2026 x", "7 fields"),
        ("@daily", 'write five fields instead of @daily: "0 0 * * *"'),
        ("@every 1h", "write five fields instead of @every"),
        ("TZ=Europe/Berlin 0 3 * * 1", "the time zone goes into --timezone Europe/Berlin"),
        ("60 3 * * 1", "minute '60': 60 is outside 0 to 59"),
        ("0 24 * * *", "hour '24': 24 is outside 0 to 23"),
        ("0 3 0 * *", "day of the month '0': 0 is outside 1 to 31"),
        ("0 3 * 13 *", "month '13': 13 is outside 1 to 12"),
        ("0 3 * * 7", "7 is outside 0 to 6; Sunday is 0"),
        ("0 3 * * MONDAY", "'MONDAY' is neither *, nor 0 to 6 or SUN to SAT"),
        ("0 3 * FOO *", "'FOO' is neither *, nor 1 to 12 or JAN to DEC"),
        ("0 3 * * FRI-MON", "the range FRI-MON runs backwards; write two, e.g. FRI-6,0-MON"),
        ("*/0 * * * *", "the step '0' must be a whole number above 0"),
        ("*/ * * * *", "the step '' must be"),
        ("*/90 * * * *", "the step 90 is longer than the whole field"),
        ("*/1.5 * * * *", "the step '1.5' must be"),
        ("1,, * * * *", "something is missing here"),
        ("-5 * * * *", "'' is neither"),
        ("? 3 * * 1", "'?' is neither"),
        ("0 3 L * *", "'L' is neither"),
        ("0 3 * * 1#2", "'1#2' is neither"),
        ("٣ 3 * * 1", "'٣' is neither"),
        ("0 3 30 2 *", "never comes: day 30 is in none of the months FEB"),
        ("0 3 31 4,6,9,11 *", "never comes: day 31 is in none of the months APR, JUN, SEP, NOV"),
    ],
)
def test_what_is_refused(text: str, told: str):
    with pytest.raises(ConfigError) as refused:
        parse_cron(text)
    [line] = refused.value.problems
    assert line.startswith(f"--schedule {text!r}")
    assert told in line


def test_every_field_that_is_wrong_at_once():
    with pytest.raises(ConfigError) as refused:
        parse_cron("60 25 * 13 9")
    assert len(refused.value.problems) == 4


@pytest.mark.parametrize("name", ["Berlin", "", "Local", "../etc/passwd", "Europe", "Europe/Berlin ", "UTC+1 "])
def test_what_is_no_time_zone(name: str):
    with pytest.raises(ConfigError, match="is no time zone"):
        check_zone(name)


@pytest.mark.parametrize(
    ("text", "zone", "utc"),
    [
        ("0 3 * * 1", "Etc/UTC", "0 3 * * 1"),
        ("0 3 * * 1", "Asia/Tokyo", "0 18 * * 0"),
        ("30 3 * * *", "Asia/Kolkata", "0 22 * * *"),
        ("0 20 * * SAT", "America/Bogota", "0 1 * * 0"),
        ("0 9 1 * *", "Asia/Tokyo", "0 0 1 * *"),
        ("*/30 * * * *", "Asia/Kolkata", "0,30 * * * *"),
    ],
)
def test_the_same_in_utc(text: str, zone: str, utc: str):
    assert to_utc(parse_cron(text), ZoneInfo(zone), NOW).text == utc


@pytest.mark.parametrize(
    ("text", "zone", "told"),
    [
        ("0 3 * * 1", "Europe/Berlin", "its clocks are put forward and back"),
        ("0 3 1 * *", "Asia/Tokyo", "is no cron expression in UTC"),
        ("0 3,12 * * 1", "Asia/Tokyo", "is no cron expression in UTC"),
        ("0,50 3 * * *", "Asia/Kathmandu", "is no cron expression in UTC"),
    ],
)
def test_what_is_not_the_same_in_utc(text: str, zone: str, told: str):
    with pytest.raises(ConfigError, match=told):
        to_utc(parse_cron(text), ZoneInfo(zone), NOW)


numbers = [st.integers(f.low, f.high).map(str) for f in FIELDS]
lists = [st.lists(n, min_size=1, max_size=3).map(",".join) | st.just("*") for n in numbers]


@given(*lists, st.sampled_from(["Asia/Tokyo", "Asia/Kolkata", "America/Bogota", "Etc/GMT+11"]))
def test_an_expression_in_utc_fires_when_the_first_one_does(
    minute: str, hour: str, day: str, month: str, weekday: str, name: str
):
    """By croniter, a parser of somebody else's; days and weekdays together mean either, as everywhere."""
    try:
        cron = parse_cron(f"{minute} {hour} {day} {month} {weekday}")
        utc = to_utc(cron, ZoneInfo(name), NOW)
    except ConfigError:
        return
    here = croniter(cron.text, NOW.astimezone(ZoneInfo(name)))
    there = croniter(utc.text, NOW)
    assert [here.get_next(datetime) for _ in range(5)] == [there.get_next(datetime) for _ in range(5)]
    assert here.get_current(datetime) - NOW > timedelta(0)
