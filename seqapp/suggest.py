"""`python -m seqapp.suggest`: the words that a keyboard would offer for what is typed so far."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from seqapp import errors
from seqapp.chat import lines
from seqapp.cli import Parser, add_import_flag, need_keras, open_run
from seqapp.errors import UsageError
from seqapp.scoring import Scores, Tokens, score_targets
from seqapp.step import Array, KerasStepper, Stepper
from seqapp.stream import Stream
from seqapp.tasks import task_of
from seqapp.words import Words

STREAMS = 32  # that a part is cut into to be measured
MOMENTS = ("before a letter", "after a letter", "after 2 letters", "after 3 letters")


def main(argv: list[str] | None = None) -> int:
    p = Parser(
        prog="python -m seqapp.suggest",
        description="Offers the next words of a text, or the ends of the word that it breaks off in, as a keyboard does: "
        "those of --text below one another with their probabilities, else those of each line of standard input side by side.",
    )
    p.add_argument("run", metavar="RUN", help="a run of the task next-word")
    p.add_argument("--text", metavar="TEXT", help="what is typed so far")
    p.add_argument("--top", type=int, default=3, metavar="N", help="how many words are offered (default: 3)")
    p.add_argument("--measure", action="store_true", help="tell how much typing it saves in the held-out part")
    add_import_flag(p)
    a = p.parse_args(argv)
    return errors.run(lambda: command(a.run, a.text, a.top, a.measure, a.modules))


def command(path: str, text: str | None, top: int, measure: bool, modules: list[str]) -> None:
    if top < 1:
        raise UsageError(f"--top must be at least 1. Received: {top}")
    if measure and text is not None:
        raise UsageError("--measure reads the held-out part of the run: leave --text out.")
    run = open_run(path, modules)
    if task_of(run.config.task).layout != "text":
        raise UsageError(f"Words are suggested by a run of the task next-word. Received: one of the task {run.config.task}")
    words = Words(run.vocabulary)
    need_keras(modules)
    model = KerasStepper(run.load_model())
    if measure:
        print(saving(model, words, run.tokens(run.held_out), top))
        return
    stream = Stream(model, run.vocabulary)
    if text is not None:
        print("\n".join(f"{word}\t{share:.4f}" for word, share in words.after(stream, text, top)))
        return
    for line in lines():
        print("\t".join(word for word, _ in words.after(stream, line, top)), flush=True)


def saving(model: Stepper, words: Words, stream: Tokens, top: int) -> str:
    """How much typing a model saves, for people, over those words of a stream that it knows."""
    length = len(stream) // min(STREAMS, len(stream))
    targets = stream[: len(stream) // length * length].reshape(-1, length).astype(np.int32)
    inputs = np.c_[np.full(len(targets), words.vocabulary.end_number, np.int32), targets[:, :-1]]
    letters = score_targets(model, inputs, targets, letters_by(words, top))[1]
    known = np.isin(targets, words.numbers)
    if not known.any():
        raise UsageError("The held-out part has no word that the vocabulary knows: train with more text.")
    typed = letters[known]
    whole = np.array([len(words.vocabulary.tokens[number]) for number in targets[known]])
    keys = np.minimum(typed + 1, whole)  # a tap takes a word that is offered
    rows = [f"{name:24}{np.mean((typed <= n) & (typed < whole)):8.1%}" for n, name in enumerate(MOMENTS)]
    return "\n".join(
        [
            f"{len(typed):,} words, {top} offered at a time",
            *rows,
            f"{'keys for a word':24}{keys.mean():8.2f} of {whole.mean():.2f}",
            f"{'typing saved':24}{1 - keys.sum() / whole.sum():8.1%}",
        ]
    )


def letters_by(words: Words, top: int) -> Callable[[Array, Tokens], Scores]:
    """For `score_targets`: in place of ranks, how many letters of each word are typed before it is offered."""

    def letters(logits: Array, targets: Tokens) -> Scores:
        typed = np.zeros(targets.shape, np.int64)
        for row, t in np.argwhere(np.isin(targets, words.numbers)):
            typed[row, t] = words.letters(logits[row, t], targets[row, t], top)
        return np.zeros(targets.shape), typed

    return letters


if __name__ == "__main__":
    sys.exit(main())
