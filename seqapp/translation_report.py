"""How good translations are: the measures of the field, of a model and of its baselines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seqapp import backend
from seqapp.beam_search import Found, KerasTransducer
from seqapp.errors import need
from seqapp.labelled import Example
from seqapp.report import Report
from seqapp.run import replacing
from seqapp.scoring import Metrics
from seqapp.sequences import Array, padded
from seqapp.step import log_softmax
from seqapp.vocabulary import Vocabulary

if TYPE_CHECKING:
    from seqapp.subwords import Subwords
    from seqapp.translate import Coder

Told = Callable[[Array, Array, Array], Array]  # sources (B, S), lengths (B,), what is told before (B, T) -> logits (B, T, V)
SCORED = 64  # pairs at once
PICTURED = 4  # pairs in the picture of the attention
SHOWN = {"bleu": "BLEU", "chrf": "chrF", "word_error_rate": "WER", "symbol_error_rate": "SER", "exact_match": "exact"}


def figures(found: Sequence[str], references: Sequence[str], unit: str) -> Metrics:
    """BLEU and chrF by sacrebleu, error rates and exact matches of translations, beside one reference each.

    The word error rate counts edits of what stands between spaces; where a target is cut into symbols, such as phones, it is
    one word whose symbols have an error rate of their own.
    """
    bleu, distance = need("sacrebleu", "translate"), need("rapidfuzz.distance.Levenshtein", "translate").distance
    count = len(references)
    exact = sum(one == other for one, other in zip(found, references, strict=True))

    def edits(of: Any) -> tuple[int, int]:
        parts = [(of(one), of(other)) for one, other in zip(found, references, strict=True)]
        return sum(distance(*pair) for pair in parts), sum(len(other) for _, other in parts)

    split_edits, split_count = edits(str.split)
    words = (count - exact, count) if unit == "symbol" else (split_edits, split_count)
    rates = {"word_error_rate": words}
    if unit == "symbol":
        rates["symbol_error_rate"] = (split_edits, split_count)
    if unit == "character":
        rates["symbol_error_rate"] = edits(list)
    return {
        "bleu": {"value": float(bleu.corpus_bleu(list(found), [list(references)]).score), "unit": "percent", "count": count},
        "chrf": {"value": float(bleu.corpus_chrf(list(found), [list(references)]).score), "unit": "percent", "count": count},
        **{name: {"value": wrong / max(of, 1), "unit": "fraction", "count": of} for name, (wrong, of) in rates.items()},
        "exact_match": {"value": exact / count, "unit": "fraction", "count": count},
    }


def told_by(model: Any) -> Told:
    """A translator that is told the tokens before each, compiled once for all batches and lengths."""
    from keras import KerasTensor

    two, one = KerasTensor([None, None], "int32"), KerasTensor([None], "int32")
    traced = backend.compiled(model, lambda *given: model(given), two, one, two)
    return lambda *given: np.asarray(traced(*given))


def log_probabilities(told: Told, coded: Sequence[tuple[Array, Array]], end: int) -> list[Array]:
    """Of the tokens (T,) of each target, each told from those before it and the source."""
    found: dict[int, Array] = {}
    order = np.argsort([len(target) for _, target in coded], kind="stable")
    for picks in (order[i : i + SCORED] for i in range(0, len(order), SCORED)):
        sources, lengths = padded([coded[i][0] for i in picks])
        targets, ends = padded([coded[i][1] for i in picks])
        logs = log_softmax(told(sources, lengths, told_before(targets, end)).astype(np.float64))
        own = np.take_along_axis(logs, targets[..., None], 2)[..., 0]
        found.update({int(i): row[:length] for i, row, length in zip(picks, own, ends, strict=True)})
    return [found[i] for i in range(len(coded))]


def told_before(targets: Array, end: int) -> Array:
    """What the decoder is told before each token of targets (B, T): the end at first, then the token before."""
    return np.concatenate([np.full_like(targets[:, :1], end), targets[:, :-1]], axis=1)


@dataclass(frozen=True)
class TranslationReport(Report):
    """The figures of one held-out part, of the model and of its baselines; `looked` what the attention picture shows."""

    loss = "nats_per_token"
    looked: tuple[tuple[list[str], list[str], Array], ...]  # tokens of a source, of its translation, attention (T, S)

    @property
    def levels(self) -> dict[str, float]:
        """None: the baselines give no probabilities."""
        return {}

    def table(self, name: str) -> str:
        shown = [key for key in SHOWN if key in self.mine]
        lines = [f"{self.part}, {self.mine['exact_match']['count']:,} translations"]
        lines += [f"{'':20}" + "".join(f"{SHOWN[key]:>10}" for key in shown) + f"{'perplexity':>12}"]
        for label, row in {name: self.mine, **self.baselines}.items():
            values = (
                f"{row[key]['value']:10.1f}" if key in ("bleu", "chrf") else f"{row[key]['value']:10.1%}" for key in shown
            )
            perplexity = f"{row['perplexity']['value']:12.2f}" if "perplexity" in row else ""
            lines.append(f"{label.replace('_', '-'):20}" + "".join(values) + perplexity)
        return "\n".join(lines)

    def draw(self, folder: Path) -> None:
        """attention.png: where each token of some translations came from."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(
            1, len(self.looked), figsize=(6 * len(self.looked), 6), layout="constrained", squeeze=False
        )
        for one, (source, target, weights) in zip(axes[0], self.looked, strict=True):
            one.imshow(weights, cmap="Greys", vmin=0, vmax=1, aspect="auto")
            one.set_xticks(range(len(source)), [token.replace("$", r"\$") for token in source], rotation=90, fontsize=8)
            one.set_yticks(range(len(target)), [token.replace("$", r"\$") for token in target], fontsize=8)
            one.xaxis.tick_top()
        figure.supxlabel(f"{self.part}: where (columns) each token of a translation (rows) was looked for")
        with replacing(folder / "attention.png") as temporary:
            figure.savefig(temporary, dpi=120, format="png")
        pyplot.close(figure)


def report_of(
    model: Any, coder: Coder, parts: dict[str, list[Example]], part: str, known: dict[str, Metrics] | None = None
) -> TranslationReport:
    """Translates `part` and the validation part, and measures them beside the baselines on `part`, if not `known`."""
    transducer, told, measured = KerasTransducer(model), told_by(model), {}
    for name in dict.fromkeys(("validation", part)):
        coded = coder.coded(parts[name])
        logs = np.concatenate(log_probabilities(told, coded, coder.target.end_number))
        best = coder.search(transducer, [source for source, _ in coded])
        translations = [coder.target.decode(hypotheses[0].tokens) for hypotheses in best]
        nats = -float(logs.mean())
        measured[name] = {
            "nats_per_token": {"value": nats, "unit": "nats", "count": len(logs)},
            "perplexity": {"value": math.exp(min(nats, 700.0)), "unit": "per token", "count": len(logs)},
            **figures(translations, references(parts[name], coder.target), coder.target.unit),
        }
    if known is None:
        known = baselines(parts["train"], parts[part], coder)
    return TranslationReport(part, measured, known, _looked(coded, best, coder))


def references(some: Sequence[Example], vocabulary: Vocabulary | Subwords) -> list[str]:
    """The targets as the model could say them: normalized, in lower case where the training was."""
    return [" ".join(vocabulary.normalized(str(pair.label)).split()) for pair in some]


def baselines(train: Sequence[Example], some: Sequence[Example], coder: Coder) -> dict[str, Metrics]:
    """The source itself as its translation, and a translation memory: the target of the training source most like it."""
    process, likeness = need("rapidfuzz.process", "translate"), need("rapidfuzz.fuzz", "translate").ratio
    known = [coder.source.normalized(str(pair.sequence)) for pair in train]
    targets, wanted = references(train, coder.target), references(some, coder.target)
    asked = [coder.source.normalized(str(pair.sequence)) for pair in some]
    nearest = [targets[process.extractOne(text, known, scorer=likeness)[2]] for text in asked]
    return {
        "source_itself": figures(asked, wanted, coder.target.unit),
        "translation_memory": figures(nearest, wanted, coder.target.unit),
    }


def _looked(coded: Sequence[tuple[Array, Array]], best: Found, coder: Coder) -> tuple[tuple[list[str], list[str], Array], ...]:
    """Of translations that fit a picture."""
    names = coder.source.tokens, coder.target.tokens
    fitting = [i for i, (source, _) in enumerate(coded) if 4 <= len(source) <= 24] or [0]
    return tuple(
        ([names[0][n] for n in coded[i][0]], [names[1][n] for n in best[i][0].tokens], best[i][0].attention)
        for i in fitting[:PICTURED]
    )
