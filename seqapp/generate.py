"""`python -m seqapp.generate`: what a run would say next."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from seqapp import errors
from seqapp.cli import Parser, add_import_flag, need_keras, open_run
from seqapp.decoding import Sampling
from seqapp.errors import UsageError
from seqapp.run import Run


def main(argv: list[str] | None = None) -> int:
    p = Parser(
        prog="python -m seqapp.generate",
        description="Continues a text or a piece of music with a trained run, or begins one; of a conversation or a recipe, "
        "writes the next turn or step. Music is written as MIDI, with a picture of it, whose paths are printed.",
    )
    p.add_argument("run", metavar="RUN", help="a run directory that seqapp.train made")
    p.add_argument(
        "--prompt",
        default="",
        metavar="TEXT",
        help="the text, or the file of music or of a recipe, to continue (default: begin a new one)",
    )
    p.add_argument(
        "--length", type=int, metavar="N", help="tokens or frames to add (default: 40 words, 300 characters, 64 frames)"
    )
    p.add_argument("--temperature", type=float, metavar="X", help="below 1 bolder, above 1 wilder, 0 greedy (default: 0.8)")
    p.add_argument("--top-k", type=int, metavar="N", help="draw among the N most likely tokens")
    p.add_argument("--top-p", type=float, metavar="X", help="draw among the fewest tokens that hold probability X")
    p.add_argument("--beam", type=int, metavar="N", help="search the most likely text with N hypotheses instead of drawing")
    p.add_argument("--seed", type=int, metavar="N", help="draw the same each time")
    p.add_argument("--chat", action="store_true", help="answer each line of standard input by a turn of the conversation")
    p.add_argument("--output", metavar="FILE.mid", help="where to write music (default: generated.mid in the run directory)")
    add_import_flag(p)
    a = p.parse_args(argv)
    return errors.run(lambda: command(a))


def command(a: argparse.Namespace) -> None:
    from seqapp.tasks import task_of

    wish = check(a)
    run = open_run(a.run, a.modules)
    if a.chat:
        from seqapp.chat import partner

        answers = partner(run, wish)
        need_keras(a.modules)
        for answer in answers(run.load_model()):
            print(answer, flush=True)
        return
    generate = task_of(run.config.task).generator(run, wish)
    need_keras(a.modules)
    print(generate(run.load_model()))


@dataclass(frozen=True)
class Wish:
    """What is to be generated; `length` is in timesteps, `beam` the hypotheses of a search, which draws nothing."""

    prompt: str
    length: int | None
    sampling: Sampling
    beam: int | None
    seed: int | None
    output: str | None

    @property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)


def nothing_to_generate(run: Run) -> NoReturn:
    raise UsageError(f"A run of the task {run.config.task} generates nothing: use python -m seqapp.predict {run.path}.")


def check(a: argparse.Namespace) -> Wish:
    """What the flags ask for.

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
    if a.chat and (a.beam is not None or a.prompt or a.output):
        raise UsageError("--chat draws an answer to each line that it reads: leave out --beam, --prompt and --output.")
    if a.seed is not None and a.seed < 0:
        raise UsageError(f"--seed must be at least 0. Received: {a.seed}")
    try:
        sampling = Sampling(**{"temperature": 0.8, **given})
    except ValueError as error:
        raise UsageError(f"--{str(error).replace('_', '-')}") from None
    return Wish(a.prompt, a.length, sampling, a.beam, a.seed, a.output)


if __name__ == "__main__":
    sys.exit(main())
