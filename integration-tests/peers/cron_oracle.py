#!/usr/bin/env python3
"""When cron expressions are due, said by somebody else. tests/it/cron.rs compares it with the program's own schedules.

    cron_oracle.py SEED COUNT

The first line is {"database": "2025b"}: the time zone database in use. Then COUNT lines, one case each:

    {"oracle": "cronsim" | "minutes", "expression": "...", "zone": "...", "after": UNIX, "next": [UNIX, ...], "until": UNIX}

`next` are the slots later than `after`, up to and including `until`.

There are two oracles. `cronsim` is a package of that name which does as Debian's cron does. It speaks where its rules are ours. Where
they are not, `minutes` speaks: the rule that actors/src/domain/schedule/mod.rs writes down, worked out without any cleverness by looking
at every minute of real time. These cases are for `minutes`:

  - a starred minute, or a hour with a stepped star, together with named hours in a zone: Debian follows real time, we take the local
    times of day;
  - all 24 hours written without a star: Debian takes times of day, we follow real time, as for the star;
  - a stepped star in one field for days and a restriction in the other: Debian joins them by AND, we by OR;
  - a stepped range of one number (`5-5/2`): cronsim takes it as open to the end (`5-59/2`), to us and to Debian it is that number;
  - a range that ends in Sunday by its name (`FRI-SUN`): to cronsim Sunday is 0, at the end of a range it is 7 to us;
  - several times of day in one gap, or a start in the second pass of an overlap: cronsim names an instant twice, or one of the past;
  - an open hour in a zone that shifted by less than an hour, or back over midnight: cronsim leaps over matching minutes or days.
"""

import json
import random
import sys
import zoneinfo
from datetime import datetime, timedelta, timezone
from itertools import islice

import tzdata
from cronsim import CronSim, CronSimError

UTC = timezone.utc
MINUTE = timedelta(minutes=1)
MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
# Shifts by less than an hour, or back over midnight.
UNEVEN = ["Australia/Lord_Howe", "America/St_Johns", "America/Caracas", "Asia/Pyongyang", "Asia/Colombo", "Antarctica/Casey"]
ZONES = UNEVEN + [
    "Africa/Cairo",
    "Africa/Casablanca",
    "America/Argentina/San_Luis",
    "America/Asuncion",
    "America/Chicago",
    "America/Havana",
    "America/Los_Angeles",
    "America/New_York",
    "America/Nuuk",
    "America/Santiago",
    "America/Sao_Paulo",
    "Antarctica/Troll",
    "Asia/Amman",
    "Asia/Gaza",
    "Asia/Kathmandu",
    "Asia/Tehran",
    "Asia/Tokyo",
    "Atlantic/Azores",
    "Australia/Adelaide",
    "Europe/Berlin",
    "Europe/Dublin",
    "Europe/Istanbul",
    "Europe/London",
    "Europe/Moscow",
    "Europe/Volgograd",
    "Pacific/Apia",
    "Pacific/Auckland",
    "Pacific/Chatham",
    "Pacific/Easter",
    "Pacific/Fiji",
]

FIELDS = [(0, 59, None), (0, 23, None), (1, 31, None), (1, 12, MONTHS), (0, 6, DAYS)]


# --- expressions ----------------------------------------------------------------------------------------------------------


def field(rng, low, high, names=None, favourite=None):
    """One field: a number, a list, a range, a stepped range or a stepped star; sometimes with names."""

    def number():
        return rng.randint(*favourite) if favourite and rng.random() < 0.6 else rng.randint(low, high)

    def word(value):
        if names and rng.random() < 0.5:
            name = names[value - low]
            return name.lower() if rng.random() < 0.3 else name
        return str(value)

    def item():
        if rng.random() < 0.6:
            return word(number())
        first, last = sorted((number(), number()))
        span = f"{word(first)}-{'sun' if names is DAYS and rng.random() < 0.1 else word(last)}"
        return f"{span}/{rng.randint(1, 6)}" if rng.random() < 0.4 else span

    shape = rng.random()
    if shape < 0.5:
        return word(number())
    if shape < 0.85:
        return ",".join(item() for _ in range(rng.randint(1, 3)))
    return f"*/{rng.randint(2, max(2, (high - low) // 2))}"


def expression(rng):
    def star(chance, *field_arguments, **more):
        return "*" if rng.random() < chance else field(rng, *field_arguments, **more)

    minute = star(0.1, 0, 59, favourite=(0, 30))
    hour = rng.choice(["*", "0-23", "*/1"]) if rng.random() < 0.25 else field(rng, 0, 23, favourite=(0, 4))
    day, weekday = star(0.7, 1, 31), star(0.7, 0, 6, names=DAYS)
    if weekday == "0" and rng.random() < 0.5:
        weekday = "7"
    return f"{minute} {hour} {day} {star(0.8, 1, 12, names=MONTHS)} {weekday}"


def allowed(text, low, high, names=None):
    """The numbers a field allows."""
    found = set()
    for part in text.upper().split(","):
        span, _, step = part.partition("/")
        if span == "*":
            first, last = low, high
        else:
            first, _, last = span.partition("-")
            if names is DAYS and last == "SUN":
                last = "7"
            first, last = (names.index(word) + low if names and word in names else int(word) for word in (first, last or first))
        found.update(range(first, last + 1, int(step or 1)))
    return found


class Rule:
    """An expression by our own written rule."""

    def __init__(self, text):
        _, _, self.day, _, self.weekday = text.split()
        sets = [allowed(field_text, *limits) for field_text, limits in zip(text.split(), FIELDS)]
        self.minutes, self.hours, self.days, self.months, weekdays = sets
        self.weekdays = {day % 7 for day in weekdays}
        self.names_hours = len(self.hours) < 24

    def matches(self, local):
        if local.minute not in self.minutes or local.hour not in self.hours or local.month not in self.months:
            return False
        by_day, by_weekday = local.day in self.days, local.isoweekday() % 7 in self.weekdays
        if self.day != "*" and self.weekday != "*":
            return by_day or by_weekday
        return by_day and by_weekday


# --- the two oracles ------------------------------------------------------------------------------------------------------


def clock(zone, at):
    """What the clock on the wall shows at an instant, without its zone."""
    return at.astimezone(zone).replace(tzinfo=None)


def minute_by_minute(rule, zone, after, until):
    """Every minute of real time. A local time of day is due when the clock shows it, or something later than it, for the first time."""
    at = after.replace(second=0)
    latest = max(clock(zone, at - n * MINUTE) for n in range(6 * 60))
    due = []
    while (at := at + MINUTE) <= until:
        now = clock(zone, at)
        if not rule.names_hours:
            if rule.matches(now):
                due.append(at)
            continue
        found = False
        while latest < now:
            latest += MINUTE
            found = found or rule.matches(latest)
        if found:
            due.append(at)
    return due


def same_rules(rule, text, zone_name):
    """Whether cronsim's rules are ours for this one."""
    minute, hour, *_ = text.split()
    stepped = [f for f in (rule.day, rule.weekday) if f.startswith("*/")]
    if stepped and rule.day != "*" and rule.weekday != "*":
        return False
    if "-SUN" in text.upper() or any(len(allowed(*item)) == 1 for item in stepped_ranges(text)):
        return False
    if zone_name == "UTC":
        return True
    starred = minute.startswith("*") or hour.startswith("*")
    return starred != rule.names_hours and (rule.names_hours or zone_name not in UNEVEN)


def stepped_ranges(text):
    """The stepped ranges of an expression, each without its step."""
    for field_text, (low, high, names) in zip(text.split(), FIELDS):
        yield from ((part.split("/")[0], low, high, names) for part in field_text.split(",") if "/" in part)


def by_cronsim(text, zone, after, count):
    slots = [slot.astimezone(UTC) for slot in islice(CronSim(text, after.astimezone(zone)), count)]
    ordered = all(a < b for a, b in zip([after] + slots, slots))
    return slots if ordered and len(slots) == count else None


# --- cases ----------------------------------------------------------------------------------------------------------------

_changes = {}


def changes(name, year):
    """The instants of a year at which a zone's clock jumps, to the minute."""
    if (name, year) not in _changes:
        zone, found = zoneinfo.ZoneInfo(name), []
        day = datetime(year, 1, 1, tzinfo=UTC)
        while day.year == year:
            low, high = day, day + timedelta(days=1)
            if low.astimezone(zone).utcoffset() != high.astimezone(zone).utcoffset():
                while high - low > MINUTE:
                    middle = low + (high - low) // MINUTE // 2 * MINUTE
                    same = middle.astimezone(zone).utcoffset() == low.astimezone(zone).utcoffset()
                    low, high = (middle, high) if same else (low, middle)
                found.append(high)
            day += timedelta(days=1)
        _changes[name, year] = found
    return _changes[name, year]


def start(rng, name):
    """An instant from 2000 to 2035; mostly not far from a change of the clock."""
    for _ in range(8):
        near = changes(name, rng.randint(2000, 2035)) if name != "UTC" else []
        if near and rng.random() < 0.8:
            reach = rng.choice([2 * 3600, 6 * 3600, 36 * 3600])
            return rng.choice(near) + timedelta(seconds=rng.randint(-reach, reach // 2))
    return datetime(2000, 1, 1, tzinfo=UTC) + timedelta(seconds=rng.randrange(36 * 365 * 86400))


def case(rng):
    while True:
        text, name = expression(rng), rng.choice(ZONES) if rng.random() < 0.9 else "UTC"
        zone = UTC if name == "UTC" else zoneinfo.ZoneInfo(name)
        after, rule = start(rng, name), Rule(text)
        oracle, slots = "cronsim", None
        if same_rules(rule, text, name):
            try:
                slots = by_cronsim(text, zone, after, 6)
            except CronSimError:
                continue  # a date that never comes
            until = slots and slots[-1]
        if slots is None:
            # Expressions for single days would mostly leave these few days empty.
            if rule.day != "*" and rule.weekday == "*" and rng.random() < 0.7:
                continue
            oracle, until = "minutes", after + timedelta(hours=rng.choice([4, 12, 52]))
            slots = minute_by_minute(rule, zone, after, until)
            if not slots and rng.random() < 0.9:
                continue
        unix = [int(slot.timestamp()) for slot in slots]
        found = {"oracle": oracle, "expression": text, "zone": name, "after": int(after.timestamp())}
        return found | {"next": unix, "until": int(until.timestamp())}


def main():
    seed, count = int(sys.argv[1]), int(sys.argv[2])
    assert not zoneinfo.TZPATH, "start it with PYTHONTZPATH= (empty), so that the pinned database is used and not the machine's"
    print(json.dumps({"database": tzdata.IANA_VERSION}))
    rng = random.Random(seed)
    for _ in range(count):
        print(json.dumps(case(rng)))


if __name__ == "__main__":
    main()
