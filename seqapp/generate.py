"""`python -m seqapp.generate`: what a run would say next."""

from __future__ import annotations

import argparse
import sys
from itertools import islice

import numpy as np

from seqapp import errors
from seqapp.cli import Parser, add_import_flag, need_keras
from seqapp.decoding import Sampling, beam, sample
from seqapp.errors import UsageError
from seqapp.run import Run
from seqapp.step import KerasStepper
from seqapp.vocabulary import Vocabulary


def main(argv: list[str] | None = None) -> int:
    p = Parser(prog="python -m seqapp.generate", description="Continues a text with a trained run, token by token.")
    p.add_argument("run", metavar="RUN", help="a run directory that seqapp.train made")
    p.add_argument("--prompt", default="", metavar="TEXT", help="the text to continue (default: start a new line)")
    p.add_argument("--length", type=int, metavar="N", help="tokens to add (default: 40 words or 300 characters)")
    p.add_argument("--temperature", type=float, metavar="X", help="below 1 bolder, above 1 wilder, 0 greedy (default: 0.8)")
    p.add_argument("--top-k", type=int, metavar="N", help="draw among the N most likely tokens")
    p.add_argument("--top-p", type=float, metavar="X", help="draw among the fewest tokens that hold probability X")
    p.add_argument("--beam", type=int, metavar="N", help="search the most likely text with N hypotheses instead of drawing")
    p.add_argument("--seed", type=int, metavar="N", help="draw the same text each time")
    add_import_flag(p)
    a = p.parse_args(argv)
    return errors.run(lambda: command(a))


def command(a: argparse.Namespace) -> None:
    sampling = check(a)
    run = Run.open(a.run)
    if not run.config.task.startswith("next-"):
        raise UsageError(f"A run of the task {run.config.task} generates nothing: use python -m seqapp.predict {a.run}.")
    vocabulary = run.vocabulary
    length = a.length if a.length is not None else {"word": 40, "character": 300}[vocabulary.unit]
    prompt = prompt_tokens(vocabulary, a.prompt)
    need_keras(a.modules)
    model = KerasStepper(run.load_model())
    numbers = vocabulary.numbers([vocabulary.end, *prompt])
    # An unknown token is nothing that one could write.
    banned = [vocabulary.unknown_number]
    if a.beam:
        added = beam(model, numbers, length, a.beam, banned)
    else:
        added = list(islice(sample(model, numbers, sampling, np.random.default_rng(a.seed), banned), length))
    print(vocabulary.join([*prompt, *(vocabulary.tokens[number] for number in added)]).strip("\n"))


def check(a: argparse.Namespace) -> Sampling:
    """The way of drawing that the flags ask for.

    Raises:
        UsageError: a flag is out of range, or two contradict each other.
    """
    drawing = {"temperature": a.temperature, "top_k": a.top_k, "top_p": a.top_p}
    given = {name: value for name, value in drawing.items() if value is not None}
    if a.beam is not None and (given or a.seed is not None):
        raise UsageError("--beam searches and draws nothing: leave out --temperature, --top-k, --top-p and --seed.")
    for name, value in (("--beam", a.beam), ("--length", a.length)):
        if value is not None and value < 1:
            raise UsageError(f"{name} must be at least 1. Received: {value}")
    if a.seed is not None and a.seed < 0:
        raise UsageError(f"--seed must be at least 0. Received: {a.seed}")
    try:
        return Sampling(**{"temperature": 0.8, **given})
    except ValueError as error:
        raise UsageError(f"--{str(error).replace('_', '-')}") from None


def prompt_tokens(vocabulary: Vocabulary, text: str) -> list[str]:
    """The tokens of a prompt as written; says which of them the model does not know."""
    tokens = vocabulary.prompt(text)
    unknown = [token for token in dict.fromkeys(tokens) if token not in vocabulary.tokens]
    if unknown:
        print(f"not in the vocabulary, read as {vocabulary.unknown}: {' '.join(unknown)}", file=sys.stderr)
    return tokens


if __name__ == "__main__":
    sys.exit(main())
