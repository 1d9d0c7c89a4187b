"""What a classifier is shown beside: the most frequent class, and a linear model of a sequence's parts without their order."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqapp.classify import figures
from seqapp.errors import need
from seqapp.scoring import Metrics
from seqapp.sequences import Sequences, padded
from seqapp.vocabulary import Vocabulary

Array = NDArray[Any]
STRENGTHS = (0.1, 1.0, 10.0)  # of the linear model's regularization, inverse; the best one on validation is taken


def baselines(parts: dict[str, Sequences], part: str, classes: int, vocabulary: Vocabulary | None) -> dict[str, Metrics]:
    """The figures on `part`. Timesteps with labels of their own have the majority alone."""
    train = parts["train"]
    labels = {name: np.concatenate([np.atleast_1d(label) for label in parts[name].labels]) for name in parts}
    shares = np.bincount(labels["train"], minlength=classes) + 0.5  # a class that is rare in training is not impossible
    logs = np.log(shares / shares.sum())
    found = {"majority": figures(np.tile(logs, (len(labels[part]), 1)), labels[part])}
    if train.labels[0].ndim:
        return found
    vectors = _counts(parts, vocabulary) if vocabulary else _values(parts)
    best = min(
        (_linear(vectors, labels, strength) for strength in STRENGTHS),
        key=lambda model: figures(model.predict_log_proba(vectors["validation"]), labels["validation"])["nats_per_label"][
            "value"
        ],
    )
    name = "bag_of_words" if vocabulary and vocabulary.unit == "word" else "bag_of_n_grams" if vocabulary else "linear"
    found[name] = figures(np.maximum(best.predict_log_proba(vectors[part]), -700.0), labels[part])
    return found


def _linear(vectors: dict[str, Any], labels: dict[str, Array], strength: float) -> Any:
    """Logistic regression, as scikit-learn has it: of texts, which have many classes and parts, by stochastic gradients."""
    module = need("sklearn.linear_model", "classify")
    if hasattr(vectors["train"], "tocsr"):
        model = module.SGDClassifier(loss="log_loss", alpha=1e-5 / strength, random_state=0)
    else:
        model = module.LogisticRegression(C=strength, max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not fully converged is good enough to compare with
        return model.fit(vectors["train"], labels["train"])


def _counts(parts: dict[str, Sequences], vocabulary: Vocabulary) -> dict[str, Any]:
    """Words and pairs of them, or characters and strings of up to three, each weighed by how rare it is."""
    longest = 2 if vocabulary.unit == "word" else 3

    def grams(tokens: Array) -> list[tuple[int, ...]]:
        row = tokens.tolist()
        return [tuple(row[i : i + n]) for n in range(1, longest + 1) for i in range(len(row) - n + 1)]

    vectorizer = need("sklearn.feature_extraction.text", "classify").TfidfVectorizer(analyzer=grams, sublinear_tf=True)
    vectorizer.fit(parts["train"].inputs)
    return {name: vectorizer.transform(part.inputs) for name, part in parts.items()}


def _values(parts: dict[str, Sequences]) -> dict[str, Array]:
    """The numbers of a series side by side, scaled; zeros behind the shorter ones."""
    longest = max(int(part.lengths.max()) for part in parts.values())
    whole = {
        name: padded([*part.inputs, np.zeros((longest, *part.inputs[0].shape[1:]), np.float32)])[0][:-1]
        for name, part in parts.items()
    }
    flat = {name: x.reshape(len(x), -1) for name, x in whole.items()}
    mean, deviation = flat["train"].mean(0), flat["train"].std(0) + 1e-6
    return {name: (x - mean) / deviation for name, x in flat.items()}
