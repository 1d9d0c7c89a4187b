"""What runs of one task or two alone are made of: groups of `seqapp.config.Config`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from seqapp.errors import UsageError


def option(default: Any, text: str) -> Any:
    """A setting, and what its flag says of it."""
    return field(default=default, metadata={"help": text})


def require(condition: bool, name: str, expected: str, received: object) -> None:
    """Refuses a setting by the flag that changes it.

    Raises:
        UsageError: the condition does not hold.
    """
    if not condition:
        raise UsageError(f"--{name.replace('_', '-')} must be {expected}. Received: {received}")


FORMS = ("text", "conversation", "recipe")


@dataclass(frozen=True)
class TextConfig:
    """Of the tasks `next-word` and `next-character` alone."""

    form: str = option("text", f"{', '.join(FORMS)}: what the text is made of, turns or steps being told by symbols")

    def check(self) -> None:
        """As `seqapp.config.Config.check`."""
        require(self.form in FORMS, "form", f"one of {', '.join(FORMS)}", self.form)


@dataclass(frozen=True)
class ClassifyConfig:
    """Of the task `classify` alone."""

    unit: str = option("word", "what a text is cut into, word or character")
    both_ways: bool = option(False, "read each sequence back too, which takes it whole")
    fold: int = option(0, "take the test part so many times its size further on, for cross-validation")

    def check(self) -> None:
        """As `seqapp.config.Config.check`."""
        require(self.unit in ("word", "character"), "unit", "word or character", self.unit)
        require(self.fold >= 0, "fold", "a whole number of at least 0", self.fold)


@dataclass(frozen=True)
class ForecastConfig:
    """Of the task `forecast` alone."""

    horizon: int = option(24, "timesteps to forecast")
    season: int | None = option(None, "timesteps in a season, 1 for none (default: what the dates say, a day of hours)")
    long_season: int | None = option(None, "timesteps in a season of seasons, 0 for none (default: a week of hours)")
    target: str | None = option(None, "the column to forecast, the others read beside it (default: each column by itself)")

    def check(self) -> None:
        """As `seqapp.config.Config.check`."""
        for name, least in (("horizon", 1), ("season", 1), ("long_season", 0)):
            value = getattr(self, name)
            require(value is None or value >= least, name, f"a whole number of at least {least}", value)


@dataclass(frozen=True)
class NextNoteConfig:
    """Of the task `next-note` alone."""

    music: str = option("roll", "roll, all keys at once, or melody, a note with its duration after the other")
    frame: float = option(1.0, "quarter notes in a frame of the piano roll")
    transpose: int = option(5, "train on each piece up to so many semitones higher and lower, another key in each epoch")
    part: str | None = option(None, "the part of a score or the track of a MIDI file to read, by name or number (default: all)")

    def check(self) -> None:
        """As `seqapp.config.Config.check`."""
        require(self.music in ("roll", "melody"), "music", "roll or melody", self.music)
        require(1 / 64 <= self.frame <= 16, "frame", "from 1/64 to 16 quarter notes", self.frame)
        if self.music == "melody" and self.frame != NextNoteConfig.frame:
            raise UsageError(f"A melody has notes and no frames: leave --frame out. Received: {self.frame}")
        require(0 <= self.transpose <= 12, "transpose", "from 0 to 12 semitones", self.transpose)


UNITS = ("word", "character", "symbol", "subword")
LARGEST_PENALTY = 10  # from there on length alone counts


@dataclass(frozen=True)
class TranslateConfig:
    """Of the task `translate` alone."""

    source_language: str | None = option(None, "suffix of the files of sources; of the default data, a language (default: en)")
    target_language: str | None = option(None, "suffix of the files of targets; of the default data, a language (default: fr)")
    source_unit: str = option("subword", f"what a source is cut into: {', '.join(UNITS)}; a symbol stands between spaces")
    target_unit: str = option("subword", "what a target is cut into, likewise")
    subwords: int = option(4000, "subwords of a language, at most")
    subword_sampling: float = option(0.0, "cut each text another way in each epoch: the sharper, the larger; 0 always the same")
    label_smoothing: float = option(0.1, "part of the probability that training spreads over all tokens")
    beam: int = option(5, "hypotheses of the search for a translation; 1 takes the likeliest token each time")
    length_penalty: float = option(1.0, "α of ((5 + length) / 6)^α, which a log-probability is divided by; 0 likes short ones")
    longest: int = option(100, "tokens of a source or a target at most, its end among them")

    def check(self) -> None:
        """As `seqapp.config.Config.check`."""
        for name in ("source_unit", "target_unit"):
            require(getattr(self, name) in UNITS, name, f"one of {', '.join(UNITS)}", getattr(self, name))
        for name, least in (("subwords", 3), ("beam", 1), ("longest", 2)):
            require(getattr(self, name) >= least, name, f"a whole number of at least {least}", getattr(self, name))
        require(0 <= self.label_smoothing < 1, "label_smoothing", "at least 0 and below 1", self.label_smoothing)
        require(0 <= self.subword_sampling < float("inf"), "subword_sampling", "a number of at least 0", self.subword_sampling)
        require(
            0 <= self.length_penalty <= LARGEST_PENALTY, "length_penalty", f"from 0 to {LARGEST_PENALTY}", self.length_penalty
        )
        given = (self.source_language is not None, self.target_language is not None)
        require(
            given[0] == given[1], "target_language", "given where --source-language is, and only there", self.target_language
        )


@dataclass(frozen=True)
class LongRangeConfig:
    """Of the tasks `adding` and `copy-memory` alone."""

    length: int = option(200, "T: timesteps of a sequence to add in, or between what is to be copied and the sign to do so")
    examples: int = option(10_000, "sequences drawn for each epoch; the parts held out are fractions of that number")

    def check(self) -> None:
        """As `seqapp.config.Config.check`."""
        for name, least in (("length", 2), ("examples", 1)):
            require(getattr(self, name) >= least, name, f"a whole number of at least {least}", getattr(self, name))


WAYS = ("row", "pixel")


@dataclass(frozen=True)
class DigitsConfig:
    """Of the task `digits` alone."""

    by: str = option("row", f"{' or '.join(WAYS)}: what of an image is a timestep")

    def check(self) -> None:
        """As `seqapp.config.Config.check`."""
        require(self.by in WAYS, "by", " or ".join(WAYS), self.by)


SHARED = {"text": ("next-word", "next-character"), "long_range": ("adding", "copy-memory")}  # groups of several tasks
