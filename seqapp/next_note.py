"""The task `next-note`: music, foretold piece by piece of it, as a piano roll or as a melody."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from seqapp.config import NOTHING, Config, DataConfig, ModelConfig, TrainingConfig
from seqapp.errors import UsageError, need
from seqapp.generate import Wish
from seqapp.melody_form import MelodyForm
from seqapp.pieces import Array, draw
from seqapp.predict import Prediction
from seqapp.report import Report
from seqapp.roll_form import RollForm
from seqapp.run import Run, check_file, replacing
from seqapp.scores import MIDI, NOTATION, Score, write_midi
from seqapp.study import Study
from seqapp.task_config import NextNoteConfig


class Form(Protocol):
    """How music is written down for a model: an array (T, ...) for each piece, a row for each timestep."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of the files that it is read from."""

    def read(self, path: Path) -> dict[str, list[Any]]:
        """The pieces of a file or folder, under the name "all" or by their parts.

        Raises:
            UsageError: it cannot be read.
        """

    def study(self, config: Config) -> Study:
        """See `seqapp.tasks.Task`."""

    def kept(self, run: Run, part: str) -> list[Array]:
        """The arrays of a part, as a run keeps them.

        Raises:
            UsageError: the file is missing or damaged.
        """

    def written(self, run: Run, pieces: list[Any]) -> list[Array]:
        """The arrays of some pieces, as a run writes them."""

    def report(self, run: Run, model: Any, parts: dict[str, list[Array]], part: str, known: Any) -> Report:
        """The figures of `part` and of the validation part, beside the baselines on `part`, if not `known`."""

    def predictions(self, run: Run, model: Any, pieces: list[Any]) -> list[Prediction]:
        """What comes next in each piece."""

    def check_wish(self, wish: Wish) -> None:
        """Refuses what this form has no use for.

        Raises:
            UsageError: the flag to leave out.
        """

    def generated(self, run: Run, model: Any, begun: Any, wish: Wish) -> Any:
        """A piece that goes on from another, or a new one where `begun` is None; it has a `score`, a `roll` and a `frame`."""


FORMS: dict[str, Callable[[NextNoteConfig], Form]] = {"roll": RollForm, "melody": MelodyForm}


class NextNote:
    """Music, of the form that the setting `music` names."""

    layout, default_data = "music", "music of music21"

    def defaults(self, own_data: bool, chosen: Mapping[str, Any] = NOTHING) -> Config:
        """For some hundreds of pieces, which the default data, Bach's chorales, are too.

        The default melodies are more and longer, and in the few keys that lie well on a fiddle.
        """
        config = Config(
            task="next-note",
            data=DataConfig(validation_fraction=0.1, test_fraction=0.1),
            model=ModelConfig(units=256, dropout=0.2, recurrent_dropout=0.1),
            training=TrainingConfig(epochs=40, patience=8, batch_size=16, bptt=128, learning_rate=4e-3),
        )
        if own_data or chosen.get("music") != "melody":
            return config
        training = replace(config.training, epochs=10, bptt=64)
        return replace(config, training=training, next_note=NextNoteConfig(music="melody", transpose=0))

    def check_data(self, config: Config) -> None:
        for package in ("music21", "mido"):
            need(package, "music")
        path = Path(config.data.data) if config.data.data else None
        # Notation takes too long to read it twice.
        if path and not path.is_dir() and not (path.is_file() and path.suffix.lower() in NOTATION):
            form_of(config).read(path)

    def study(self, config: Config) -> Study:
        return form_of(config).study(config)

    def evaluation(self, run: Run, data: str | None) -> Callable[[Any], Report]:
        form, part = form_of(run.config), "data" if data else run.held_out
        parts = {name: form.kept(run, name) for name in ("train", "validation", run.held_out)}
        if data:
            parts["data"] = form.written(run, _read(form, data, "--data"))
        known = run.kept_baselines(data)
        return lambda model: form.report(run, model, parts, part, known)

    def predictor(self, run: Run, source: str) -> Callable[[Any], list[Prediction]]:
        form = form_of(run.config)
        found = _read(form, source, "--input")
        return lambda model: form.predictions(run, model, found)

    def generator(self, run: Run, wish: Wish) -> Callable[[Any], str]:
        form = form_of(run.config)
        form.check_wish(wish)
        path = Path(wish.output or run.path / "generated.mid")
        if path.suffix.lower() not in MIDI:
            raise UsageError(f"--output must end in .mid. Received: {path}")
        picture = path.with_suffix(".png")
        for made in (path, picture):
            check_file(made, "--output")
        begun, *more = _read(form, wish.prompt, "--prompt") if wish.prompt else [None]
        if more:
            raise UsageError(f"--prompt must be one piece: leave the others out. Received: {wish.prompt} with {1 + len(more)}")

        def generate(model: Any) -> str:
            piece = form.generated(run, model, begun, wish)
            score: Score = piece.score
            with replacing(path) as temporary:
                write_midi(score, temporary)
            with replacing(picture) as temporary:
                draw([(path.stem, piece.roll)], piece.frame, temporary)
            return f"{picture}\n{path}"

        return generate


def form_of(config: Config) -> Form:
    return FORMS[config.next_note.music](config.next_note)


def _read(form: Form, source: str, flag: str) -> list[Any]:
    """The pieces of a file or folder.

    Raises:
        UsageError: it cannot be read, or is standard input.
    """
    if source == "-":
        raise UsageError(f"Music goes on from a file: name one, {', '.join(form.suffixes)}, with {flag}.")
    return [piece for some in form.read(Path(source)).values() for piece in some]
