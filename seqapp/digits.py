"""The task `digits`: which of some classes an image is of, read row by row or pixel by pixel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from seqapp import labelled
from seqapp.classify import Classify, Coder
from seqapp.config import NOTHING, Config, DataConfig, ModelConfig, TrainingConfig
from seqapp.errors import UsageError, need
from seqapp.labelled import Example
from seqapp.run import Run


class Digits(Classify):
    """Classes of images (H, W) as sequences: H timesteps of W numbers, or H·W timesteps of one, as Le, Jaitly and Hinton 2015
    (arXiv:1504.00941v2) read them. All else is as in `seqapp.classify.Classify`: the hash of an image says which part it is in.
    """

    default_data = "the digits of scikit-learn"

    def defaults(self, own_data: bool, chosen: Mapping[str, Any] = NOTHING) -> Config:
        """For some thousands of images; pixel by pixel there is more to remember."""
        return Config(
            task="digits",
            data=DataConfig(validation_fraction=0.1, test_fraction=0.1),
            model=ModelConfig(units=64, dropout=0.2, recurrent_dropout=0.0),
            training=TrainingConfig(epochs=30, patience=10, batch_size=32, learning_rate=1e-2),
        )

    def examples(self, config: Config, data: str | None) -> dict[str, list[Example]]:
        found = labelled.read(Path(data)) if data else {"all": digits()}
        return {name: [as_sequence(example, config.digits.by) for example in some] for name, some in found.items()}

    def check_data(self, config: Config) -> None:
        need("sklearn", "classify")
        self.examples(config, config.data.data)

    def given(self, run: Run, coder: Coder, source: str) -> list[Example]:
        if source == "-":
            raise UsageError("Images come from a .npz file: name one with --input.")
        return [as_sequence(example, run.config.digits.by) for example in labelled.read_file(Path(source))]


def digits() -> list[Example]:
    """The 1,797 images (8, 8) of handwritten digits, 0 to 16, of scikit-learn (Alpaydin and Kaynak 1998, CC BY 4.0)."""
    found = need("sklearn.datasets", "classify").load_digits()
    return [
        Example(image.astype(np.float32), str(label), f"image {number}")
        for number, (image, label) in enumerate(zip(found.images, found.target, strict=True))
    ]


def as_sequence(example: Example, by: str) -> Example:
    """An image (H, W) as timesteps.

    Raises:
        UsageError: the example is none.
    """
    image = example.sequence
    if isinstance(image, str) or min(image.shape) < 2 or isinstance(example.label, tuple):
        raise UsageError(
            f"{example.place} is {labelled.kind_of(example)}: give images, arrays x (N, H, W) and y (N,) in a .npz file."
        )
    return replace(example, sequence=image.reshape(-1, 1)) if by == "pixel" else example
