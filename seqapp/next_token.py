"""The tasks `next-word` and `next-character`: a text, predicted token by token."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from seqapp import forms
from seqapp.config import NOTHING, Config, DataConfig, ModelConfig, TrainingConfig
from seqapp.corpus import Split, Text
from seqapp.decoding import beam, sample
from seqapp.errors import UsageError
from seqapp.generate import Wish
from seqapp.predict import Prediction, refuse_nothing, text_of
from seqapp.report import Report
from seqapp.run import Run
from seqapp.scoring import COUNTED, Metrics, Tokens, baselines, metrics, score_all, unknown_fraction
from seqapp.step import KerasStepper, Stepper, log_softmax
from seqapp.stream import Stream
from seqapp.study import Study
from seqapp.text_file import TextFile
from seqapp.token_file import TokenFile
from seqapp.turns import Turns, draw, table
from seqapp.vocabulary import Vocabulary, plain

LENGTHS = {"word": 40, "symbol": 40, "character": 300}  # tokens that are generated where nothing is said
LIKELY = 5  # tokens that a prediction tells the probabilities of


class NextToken:
    """A model of running text, of words or of characters.

    A task of one's own that reads other things as texts of tokens overrides `defaults`, `texts` and `split`.
    """

    layout, default_data = "text", "the conversations of chitchat-dataset"

    def __init__(self, unit: str) -> None:
        self.unit = unit

    def defaults(self, own_data: bool, chosen: Mapping[str, Any] = NOTHING) -> Config:
        """The field defaults suit words of texts that people bring, from some 50,000 words up.

        The conversations are 2.7 million words: they need no dropout, fewer passes and a larger `min_count`.
        """
        words = Config()
        characters = Config(
            task="next-character",
            data=DataConfig(min_count=1, lower=False),
            model=ModelConfig(embedding=64, dropout=0.2, recurrent_dropout=0.0),
            training=TrainingConfig(batch_size=32, learning_rate=6e-3),
        )
        if own_data:
            return words if self.unit == "word" else characters
        if self.unit == "word":
            return replace(
                words,
                data=DataConfig(min_count=50),
                model=ModelConfig(dropout=0.0, recurrent_dropout=0.0),
                training=TrainingConfig(epochs=2, batch_size=32, learning_rate=8e-3),
            )
        return replace(
            characters, model=replace(characters.model, dropout=0.0), training=replace(characters.training, epochs=2)
        )

    def texts(self, config: Config, data: str | None) -> Sequence[Text]:
        """The documents of a file or folder; tells people which files it leaves out. Running text is yet to be read.

        Raises:
            UsageError: they cannot be read.
        """
        found, left_out = forms.documents(config.text.form, data)
        for why in left_out:
            print(f"left out: {why}", file=sys.stderr)
        return [text for _, text in found]

    def split(self, config: Config) -> Split:
        """The documents of each part.

        Raises:
            UsageError: they cannot be read, or a part would be empty.
        """
        return forms.load(config, self.unit)

    def check_data(self, config: Config) -> None:
        # The default conversations need no look: they come with the package.
        if config.data.data or config.text.form == "recipe":
            for text in self.texts(config, config.data.data):
                if isinstance(text, TextFile):
                    text.check()

    def study(self, config: Config) -> Study:
        from seqapp.token_study import TokenStudy

        return TokenStudy.of(self.split(config), self.unit, config)

    def evaluation(self, run: Run, data: str | None) -> Callable[[Any], TokenReport]:
        vocabulary, part = run.vocabulary, "data" if data else run.held_out
        streams = {name: run.tokens(name) for name in dict.fromkeys(("train", "validation", run.held_out))}
        if data:
            file = TokenFile(self.texts(run.config, data), vocabulary, vocabulary.numbers)
            if not len(file):
                raise UsageError(f"{data} holds no token: give a text with words in it.")
            streams["data"] = file.tokens
        known = run.kept_baselines(data)
        return lambda model: TokenReport.of(model, vocabulary, streams, part, known)

    def predictor(self, run: Run, source: str) -> Callable[[Any], list[Prediction]]:
        """The next token of each line; what stands behind a tab is the reference."""
        text, name = text_of(source)
        rows = [line.partition("\t") for line in text.split("\n") if line.strip()]
        refuse_nothing(len(rows), name)
        vocabulary = run.vocabulary

        def predict(model: Any) -> list[Prediction]:
            stepper = KerasStepper(model)
            return [_prediction(stepper, vocabulary, given, after if tab else None) for given, tab, after in rows]

        return predict

    def generator(self, run: Run, wish: Wish) -> Callable[[Any], str]:
        if wish.output:
            raise UsageError("--output is for music, and a text is printed: leave it out.")
        vocabulary = run.vocabulary
        length = wish.length or LENGTHS[vocabulary.unit]
        if vocabulary.symbols:
            return (_next_turn if wish.prompt.strip() else _beginning)(run, wish, length)
        prompt = vocabulary.prompt(wish.prompt)
        say_unknown(vocabulary, prompt)
        numbers = vocabulary.numbers([vocabulary.end, *prompt])
        banned = [vocabulary.unknown_number]  # nothing that one could write

        def generate(model: Any) -> str:
            stepper = KerasStepper(model)
            if wish.beam:
                added = beam(stepper, numbers, length, wish.beam, banned)
            else:
                added = list(islice(sample(stepper, numbers, wish.sampling, wish.rng, banned), length))
            return vocabulary.join([*prompt, *(vocabulary.tokens[number] for number in added)]).strip("\n")

        return generate


def say_unknown(vocabulary: Vocabulary, tokens: Iterable[str]) -> None:
    """Tells people which tokens of theirs the model does not know."""
    unknown = [token for token in dict.fromkeys(tokens) if token not in vocabulary.tokens]
    if unknown:
        print(f"not in the vocabulary, read as {vocabulary.unknown}: {' '.join(unknown)}", file=sys.stderr)


def _next_turn(run: Run, wish: Wish, length: int) -> Callable[[Any], str]:
    """The turn, or step, that follows a prompt.

    Raises:
        UsageError: the prompt cannot be read.
    """
    v = run.vocabulary
    text, symbols = forms.prompt(run.config.text.form, wish.prompt), v.symbol_numbers
    say_unknown(v, v.prompt(text))

    def generate(model: Any) -> str:
        stepper = KerasStepper(model)
        if not wish.beam:
            stream = Stream(stepper, v)
            stream.feed(text)
            return stream.answered("", length, wish.sampling, wish.rng)
        numbers, never = v.numbers([v.end, *v.prompt(text), v.symbols[-1]]), [v.unknown_number]
        found = beam(stepper, numbers, length, wish.beam, never, symbols, [*symbols, v.end_number])
        return v.join(v.tokens[number] for number in found).strip("\n")

    return generate


def _beginning(run: Run, wish: Wish, length: int) -> Callable[[Any], str]:
    """A new conversation or recipe, as the reader of the form takes it; what is drawn may end before its length."""
    v = run.vocabulary
    begin = v.symbol_numbers[0]

    def generate(model: Any) -> str:
        stepper = KerasStepper(model)
        if wish.beam:
            added = beam(stepper, [v.end_number, begin], length, wish.beam, [v.unknown_number, begin])
        else:
            stream = Stream(stepper, v)
            stream.feed(v.symbols[0])
            added = stream.draw(length, wish.sampling, wish.rng, [v.unknown_number], [begin])
        text = v.join(v.tokens[number] for number in (begin, *added) if number != begin)
        return forms.written(run.config.text.form, v.symbols[0] + text)

    return generate


def _prediction(model: Stepper, vocabulary: Vocabulary, text: str, reference: str | None) -> Prediction:
    """The unknown token, which nobody could write, is never the answer, but keeps its probability.

    Where there are turns, the text is the beginning of the first one.
    """
    given, symbols = text, vocabulary.symbols
    if symbols:
        given = f"{symbols[0]}{symbols[-1]}{plain(text, symbols)}"
    numbers = vocabulary.numbers([vocabulary.end, *vocabulary.prompt(given)])
    logits, _ = model.sequence(np.array([numbers], np.int32), model.initial_states(1))
    p = np.exp(log_softmax(logits[0, -1].astype(np.float64)))
    order = [i for i in np.argsort(-p, kind="stable") if i != vocabulary.unknown_number][:LIKELY]
    likely = tuple((vocabulary.tokens[i], float(p[i])) for i in order)
    return Prediction(text, reference, *likely[0], likely)


@dataclass(frozen=True)
class TokenReport(Report):
    """The figures of one held-out part, of the model and of its baselines."""

    loss = "nats_per_token"

    @classmethod
    def of(
        cls,
        model: Any,
        vocabulary: Vocabulary,
        streams: Mapping[str, Tokens],
        part: str,
        known: dict[str, Metrics] | None = None,
    ) -> TokenReport:
        """Scores `part` and the validation stream, each from the zero state, beside the baselines on `part`, if not `known`."""
        names, end = list(dict.fromkeys(("validation", part))), vocabulary.end_number
        figures: dict[str, Metrics] = {}
        turns = {name: Turns.of(vocabulary, streams[name]) for name in names}
        for name, (logs, ranks) in zip(
            names, score_all(KerasStepper(model), [streams[name] for name in names], end), strict=True
        ):
            figures[name] = metrics(logs, ranks, vocabulary.unit)
            figures[name]["unknown"] = unknown_fraction(streams[name], vocabulary.unknown_number)
            figures[name] |= turns[name].figures(logs)
        if known is None:
            train, validation, held_out = (streams[name] for name in ("train", "validation", part))
            more = turns[part].figures
            known = baselines(train, validation, held_out, len(vocabulary), end, vocabulary.unit, more)
        return cls(part, figures, known)

    def table(self, name: str) -> str:
        """A line each for the model and the baselines, and how far the model is below the best of them."""
        mine = self.mine
        rows = {name: mine, **self.baselines}
        unit = "bits_per_character" if "bits_per_character" in mine else "perplexity"
        lines = [f"{self.part}, {mine['perplexity']['count']:,} tokens, {mine['unknown']['value']:.1%} unknown"]
        lines += [f"{'':16}{unit.replace('_', ' '):>20}{'top 1':>10}{'top 3':>10}"]
        for label, row in rows.items():
            value, top_1, top_3 = (row[key]["value"] for key in (unit, "top_1_recall", "top_3_recall"))
            lines.append(f"{label.replace('_', '-'):16}{value:20.3f}{top_1:10.1%}{top_3:10.1%}")
        best, value = self.strongest("perplexity")
        below = 1 - mine["perplexity"]["value"] / value
        lines.append(f"perplexity {abs(below):.1%} {'below' if below >= 0 else 'above'} {best}")
        if any(row["discount"]["count"] == COUNTED for row in self.baselines.values()):
            lines.append(f"the baselines were counted on the last {COUNTED:,} training tokens")
        return "\n".join([*lines, *table(rows)])

    def draw(self, folder: Path) -> None:
        """A picture of the turns or steps, where there are some."""
        draw({"the model": self.mine, **self.baselines}, folder)
