"""The default data of `translate`: dates, times and amounts, written in two languages by Babel."""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable
from typing import Any

from seqapp.errors import UsageError, need
from seqapp.labelled import Example

COUNT = 8000
CURRENCIES = ("EUR", "USD", "GBP", "CHF", "JPY", "CAD", "NOK", "INR", "MXN", "ISK")
UNITS = (
    "length-kilometer", "length-meter", "length-mile", "mass-kilogram", "mass-gram", "volume-liter", "duration-minute",
    "duration-week", "speed-kilometer-per-hour", "temperature-celsius", "digital-megabyte", "area-hectare",
)  # fmt: skip
Writer = Callable[[Any], str]  # a locale -> what it writes


def generated(source: str | None = None, target: str | None = None) -> list[Example]:
    """Things as the Unicode CLDR writes them in both languages, always the same ones.

    Raises:
        UsageError: Babel does not know a language.
    """
    rng, locales = random.Random(0), [_locale(source or "en"), _locale(target or "fr")]
    found: dict[str, str] = {}
    for _ in range(COUNT):
        write = rng.choice((_date, _moment, _distance, _price, _measure))(rng)
        one, other = (" ".join(write(locale).split()) for locale in locales)
        found.setdefault(one, other)
    return [Example(one, other, f"phrase {number}") for number, (one, other) in enumerate(found.items(), 1)]


def _locale(name: str) -> Any:
    babel = need("babel", "translate")
    try:
        return babel.Locale.parse(name.replace("-", "_"))
    except (babel.UnknownLocaleError, ValueError):
        raise UsageError(f"Babel has no language {name!r}: give a code such as de, pt-BR or is, or data of your own.") from None


def _date(rng: random.Random) -> Writer:
    dates = need("babel.dates", "translate")
    day = datetime.date(1900, 1, 1) + datetime.timedelta(rng.randrange(60_000))
    form = rng.choice(("full", "long", "medium"))
    return lambda locale: dates.format_date(day, form, locale=locale)


def _moment(rng: random.Random) -> Writer:
    """A date with a time."""
    dates, begin = need("babel.dates", "translate"), datetime.datetime(1950, 1, 1)
    moment, form = begin + datetime.timedelta(minutes=rng.randrange(60_000_000)), rng.choice(("long", "medium"))
    date, time = (getattr(dates, f"format_{what}") for what in ("date", "time"))
    return lambda locale: f"{date(moment, form, locale=locale)}, {time(moment, 'short', locale=locale)}"


def _distance(rng: random.Random) -> Writer:
    """A time ago, or in a time."""
    dates = need("babel.dates", "translate")
    delta = datetime.timedelta(**{rng.choice(("minutes", "hours", "days", "weeks")): rng.choice((-1, 1)) * rng.randint(1, 60)})
    return lambda locale: dates.format_timedelta(delta, add_direction=True, locale=locale)


def _price(rng: random.Random) -> Writer:
    numbers, currency = need("babel.numbers", "translate"), rng.choice(CURRENCIES)
    amount = round(10 ** rng.uniform(0, 5), 2)
    return lambda locale: numbers.format_currency(amount, currency, locale=locale, format_type="name")


def _measure(rng: random.Random) -> Writer:
    units, unit, amount = (
        need("babel.units", "translate"),
        rng.choice(UNITS),
        round(10 ** rng.uniform(0, 3), rng.choice((0, 1))),
    )
    return lambda locale: units.format_unit(amount, unit, locale=locale)
