"""One long stream through the runtime: `python -m tests.export.long_stream BUNDLE ENGINE TEXT OUT`.

Reads the words of TEXT one after the other, each by a call of its own, and writes to OUT.npz the logits after each hundredth of
them, and the memory of this process (bytes) after 10,000 words and at the end.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import numpy as np

from export.runtime import load

WARM = 10_000  # words, after which nothing should be new


def memory() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()


def main(bundle: str, engine: str, text: str, out: str) -> None:
    session, words = load(bundle, engine=engine).session(), Path(text).read_text("utf-8").split(" ")
    every = max(1, len(words) // 100)
    logits, at_first = np.zeros((len(words) // every, len(session.next_logits())), np.float32), 0
    for number, word in enumerate(words, 1):
        session.feed(f" {word}")
        if number % every == 0:
            logits[number // every - 1] = session.next_logits()
        if number == WARM:
            at_first = memory()
    np.savez(out, logits=logits, memory=[at_first, memory()])


if __name__ == "__main__":
    main(*sys.argv[1:])
