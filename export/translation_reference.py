"""The trained translator on real pairs: what every file of an encoder-decoder must equal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np

from export.artifact import BATCHES, Artifact
from export.encoder_decoder import EncoderDecoder
from export.parity import Parity, differences, microseconds
from export.reference import QUALITY, ROUNDING_FACTOR, TOLERANCE
from export.runners import FUNCTIONS, TransducerRunner
from export.spec import DECODE_STEP, ENCODE, TranslationSpec
from export.stages import Recurrent
from seqapp.beam_search import Hypothesis, KerasTransducer, Transducer
from seqapp.errors import UsageError
from seqapp.scoring import Metrics, Scores, metrics
from seqapp.sequences import padded
from seqapp.step import Array, log_softmax
from seqapp.translate import Coder
from seqapp.translation_report import told_before

LENGTHS = (1, 7, 100)  # of a source
ROWS = 64  # pairs at once
# A score of the attention is a sum of hundreds of products, and what rounding leaves of it depends on their order: where the
# attention is torn between two tokens, engines that add them one by one were 4e-5 from Keras, in probability 0.004 %.
OF_STEPS = 1e-4
SEARCHED = 200  # sources whose translations are compared
NEAR = 1e-4  # hypotheses whose ranks are nearer than that are as good as each other

Values = tuple[Array, list[Array]]


@dataclass(frozen=True)
class Joined:
    """An encoder and a decoder of different engines."""

    encoder: Transducer
    decoder: Transducer

    def encode(self, tokens: Array, lengths: Array) -> tuple[Array, list[Array]]:
        return self.encoder.encode(tokens, lengths)

    def decode_step(
        self, tokens: Array, states: Sequence[Array], memory: Array, lengths: Array
    ) -> tuple[Array, list[Array], Array]:
        return self.decoder.decode_step(tokens, states, memory, lengths)


@dataclass(frozen=True)
class Stages:
    """The stages that exporters see, at work in TensorFlow."""

    network: EncoderDecoder

    def encode(self, tokens: Array, lengths: Array) -> tuple[Array, list[Array]]:
        memory, states = self.network.encode(Recurrent.whole, tokens, lengths)
        return np.asarray(memory), [np.asarray(state) for state in states]

    def decode_step(
        self, tokens: Array, states: Sequence[Array], memory: Array, lengths: Array
    ) -> tuple[Array, list[Array], Array]:
        logits, after, attention = self.network.decode_step(tokens, list(states), memory, lengths)
        return np.asarray(logits), [np.asarray(state) for state in after], np.asarray(attention)


class TranslationReference:
    """A network and the tokens of held-out pairs, as `export.reference.Reference` is for streams.

    Each source of the samples is encoded and decoded alone: a file that gets them in one padded batch must give the same.
    """

    judged = True

    def __init__(self, network: EncoderDecoder, coded: Sequence[tuple[Array, Array]], coder: Coder) -> None:
        self.network, self.spec = network, TranslationSpec.of(network)
        self.coded, self.coder = coded, coder
        self.keras = KerasTransducer(network.model)
        self.sources = np.concatenate([source for source, _ in coded])

    def sample(self, longest: int, rows: int) -> list[Array]:
        """Sources of the data, the first so long, others shorter; short data are repeated."""
        lengths = [longest, (longest + 1) // 2, 1][:rows]
        starts = [row * len(self.sources) // rows for row in range(rows)]
        picks = (np.arange(start, start + n) % len(self.sources) for start, n in zip(starts, lengths, strict=True))
        return [self.sources[pick] for pick in picks]

    def check_chain(self) -> None:
        """Refuses a model that computes anything else than its stages do.

        Raises:
            UsageError: the two differ.
        """
        source, target = self.coded[0]
        given = self._given(target[None])
        logits = self.network.model([source[None], np.array([len(source)], np.int32), given])
        wanted = log_softmax(np.asarray(logits)[0].astype(np.float64))
        stages = Stages(self.network)
        found, _ = self._decoded(stages, stages.encode(source[None], np.array([len(source)], np.int32)), [len(source)], given)
        difference, _ = differences((wanted, []), (found[0, :, : self.spec.output_size], []))
        if not difference <= 1e-3:
            raise UsageError(
                f"The model computes something else whole than its stages do step by step (difference {difference:.1e}): "
                "train it again with this version of seqapp."
            )

    @cached_property
    def rounding(self) -> tuple[float, float]:
        """Largest distance of Keras in float32 from Keras in float64, in values and in states."""
        exact = KerasTransducer(self.network.in_float64().model)
        found = [self._distance(exact, name, rows) for name, rows in product((ENCODE, DECODE_STEP), (1, 3))]
        return max(value for value, _ in found), max(state for _, state in found)

    def tolerances_of(self, signature: str) -> tuple[float, float]:
        """What a signature may differ by, in values and in states."""
        values, states = self.rounding
        least = TOLERANCE if signature == ENCODE else OF_STEPS
        return max(least, ROUNDING_FACTOR * values), max(TOLERANCE, ROUNDING_FACTOR * states)

    def opened(self, artifact: Artifact, path: Path) -> Joined:
        """A file at work; Keras does what is not in it."""
        functions = FUNCTIONS[artifact.format](path, artifact.signatures)
        runner = TransducerRunner(self.spec, functions)
        return Joined(*(runner if name in functions else self.keras for name in (ENCODE, DECODE_STEP)))

    def measured(self, runner: Transducer, signature: str, batches: Sequence[int]) -> Parity:
        """The largest differences over batches: of `encode`, over lengths, of `decode_step`, over steps."""
        found = [self._distance(runner, signature, rows) for rows in batches]
        return Parity(signature, max(value for value, _ in found), max(state for _, state in found))

    def _distance(self, runner: Transducer, signature: str, rows: int) -> tuple[float, float]:
        if signature == DECODE_STEP:
            return self._of_decode_step(runner, rows)
        found = [self._of_encode(runner, self.sample(longest, rows)) for longest in LENGTHS]
        return max(value for value, _ in found), max(state for _, state in found)

    def _of_encode(self, runner: Transducer, sources: list[Array]) -> tuple[float, float]:
        memory, states = runner.encode(*padded(sources))
        found = [
            differences(self._alone(source), (memory[row, : len(source)][None], [state[row : row + 1] for state in states]))
            for row, source in enumerate(sources)
        ]
        return max(value for value, _ in found), max(state for _, state in found)

    def _alone(self, source: Array) -> Values:
        return self.keras.encode(source[None], np.array([len(source)], np.int32))

    def _of_decode_step(self, runner: Transducer, rows: int) -> tuple[float, float]:
        """From what Keras makes of sources of several lengths, along their own targets.

        Each step is compared from the states that Keras has come to: attention may make a hundred times as much of the rounding
        of the states before. The states are those that the file itself comes to, step after step.
        """
        pairs = self._pairs(rows)
        made = [self._alone(source) for source, _ in pairs]
        memory, lengths = padded([one[0] for one, _ in made])
        first = [np.concatenate(some) for some in zip(*(states for _, states in made), strict=True)]
        tokens = self._given(padded([target for _, target in pairs])[0])
        wanted = [
            self._decoded(self.keras, begun, lengths[row : row + 1], tokens[row : row + 1, : len(target)])
            for row, (begun, (_, target)) in enumerate(zip(made, pairs, strict=True))
        ]
        kept = [padded([states[i][0, :-1] for _, states in wanted])[0] for i in range(len(first))]
        before = [np.concatenate([one[:, None], after], 1) for one, after in zip(first, kept, strict=True)]
        found, _ = self._decoded(runner, (memory, first), lengths, tokens, before)
        _, came_to = self._decoded(runner, (memory, first), lengths, tokens)
        distances = []
        for row, (values, states) in enumerate(wanted):
            here = slice(row, row + 1), slice(values.shape[1])
            mine = found[here][..., : values.shape[2]], [state[here] for state in came_to]
            distances.append(differences((values, states), mine))
        return max(value for value, _ in distances), max(state for _, state in distances)

    def _pairs(self, rows: int) -> list[tuple[Array, Array]]:
        """Pairs of the data, the first with the longest source, the last with the shortest."""
        ranked = sorted(self.coded, key=lambda pair: -len(pair[0]))
        return [ranked[row * (len(ranked) - 1) // max(1, rows - 1)] for row in range(rows)]

    def lengths_of(self, signature: str) -> list[int]:
        """How many timesteps a signature was compared over."""
        return list(LENGTHS) if signature == ENCODE else sorted(len(target) for _, target in self._pairs(max(BATCHES)))

    def _given(self, targets: Array) -> Array:
        """What the decoder is told along targets (B, T)."""
        return told_before(targets, self.coder.target.end_number)

    def _decoded(
        self,
        runner: Transducer,
        begun: Values,
        lengths: Sequence[int] | Array,
        tokens: Array,
        before: Sequence[Array] | None = None,
    ) -> Values:
        """Log-probabilities of what follows each token, beside the attention (B, T, V + S), and states (B, T, U).

        Each step goes on from the one before it, or from the states `before` (B, T, U).
        """
        (memory, states), values, after = begun, [], []
        for t, now in enumerate(tokens.T):
            states = states if before is None else [state[:, t] for state in before]
            logits, states, attention = runner.decode_step(now, states, memory, np.asarray(lengths, np.int32))
            values.append(np.concatenate([log_softmax(logits.astype(np.float64)), attention], axis=1))
            after.append(states)
        return np.stack(values, 1), [np.stack(some, 1) for some in zip(*after, strict=True)]

    @cached_property
    def scores(self) -> Scores:
        """Log-probability and rank of the first targets' tokens, by Keras."""
        return self.score(self.keras, QUALITY)

    def score(self, runner: Transducer, count: int) -> Scores:
        """Of about so many tokens of the first targets, each told from those before it."""
        some = self.coded[: int(np.searchsorted(np.cumsum([len(target) for _, target in self.coded]), count)) + 1]
        logs, ranks = [], []
        for part in (some[i : i + ROWS] for i in range(0, len(some), ROWS)):
            sources, lengths = padded([source for source, _ in part])
            targets, ends = padded([target for _, target in part])
            values, _ = self._decoded(runner, runner.encode(sources, lengths), lengths, self._given(targets))
            values = values[:, :, : self.spec.output_size]
            own = np.take_along_axis(values, targets[..., None], 2)
            known = np.arange(targets.shape[1]) < ends[:, None]
            logs.append(own[..., 0][known])
            ranks.append((~(values <= own)).sum(-1)[known])
        return np.concatenate(logs), np.concatenate(ranks)

    def metrics(self, scores: Scores) -> Metrics:
        return metrics(*scores, self.coder.target.unit)

    @cached_property
    def translations(self) -> list[list[Hypothesis]]:
        """Of the first sources, by Keras."""
        return self.translated(self.keras)

    def translated(self, runner: Transducer) -> list[list[Hypothesis]]:
        return self.coder.search(runner, [source for source, _ in self.coded[:SEARCHED]])

    def compared(self, runner: Transducer) -> tuple[int, int]:
        """How many of the first sources are translated as by Keras, or as well in all but rounding, and how many there are."""
        pairs = zip(self.translated(runner), self.translations, strict=True)
        # What gives no numbers finds no translation.
        same = (
            bool(a and b) and (a[0].tokens == b[0].tokens or math.isclose(a[0].rank, b[0].rank, abs_tol=NEAR)) for a, b in pairs
        )
        return sum(same), len(self.translations)

    def latency(self, runner: Transducer, artifact: Artifact) -> dict[str, float]:
        """Microseconds a timestep, batch 1, as called from Python: medians."""
        (source,), lengths = self.sample(20, 1), np.array([20], np.int32)
        memory, states = self._alone(source)
        token, found = np.array([self.coder.target.end_number], np.int32), {}
        if ENCODE in artifact.signatures:
            found[ENCODE] = microseconds(lambda: runner.encode(source[None], lengths), 20) / len(source)
        if DECODE_STEP in artifact.signatures:
            found[DECODE_STEP] = microseconds(lambda: runner.decode_step(token, states, memory, lengths), 100)
        return found
