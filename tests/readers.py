"""All that reads a file which others made: a tiny file that it takes, and how it is called."""

from __future__ import annotations

import dataclasses
import io
import json
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from export import reading
from export.runners import Runner
from export.session import Session
from export.spec import Spec, State
from seqapp import (
    adding,
    chat,
    classify,
    config,
    corpus,
    forecast,
    forms,
    labelled,
    melody,
    pairs,
    pieces,
    roll_form,
    series,
)
from seqapp.framing import Framing
from seqapp.run import Run
from seqapp.scores import Score, write_midi
from seqapp.sequences import Sequences
from seqapp.subwords import Subwords
from seqapp.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Reader:
    """`read` takes the path of a file called `file`, alone in its folder; `sample` makes the content of one that is right."""

    name: str
    file: str
    sample: Callable[[], bytes]
    read: Callable[[Path], Any]


SCORE = Score("a", ((0.0, 1.0, 60), (1.0, 2.0, 64), (2.0, 4.0, 67)), 100.0, "3/4")
XML = """<?xml version="1.0" encoding="UTF-8"?>
<score-partwise version="4.0"><part-list><score-part id="P1"><part-name>Air</part-name></score-part></part-list><part id="P1">
<measure number="1"><attributes><divisions>2</divisions><time><beats>3</beats><beat-type>4</beat-type></time></attributes>
<note><pitch><step>C</step><octave>4</octave></pitch><duration>2</duration><type>quarter</type></note>
<note><chord/><pitch><step>E</step><alter>-1</alter><octave>4</octave></pitch><duration>2</duration></note>
<note><rest/><duration>2</duration></note><note><pitch><step>G</step><octave>5</octave></pitch><duration>2</duration></note>
</measure></part></score-partwise>"""
CONTAINER = '<?xml version="1.0"?><container><rootfiles><rootfile full-path="a.xml"/></rootfiles></container>'
ABC = "X:1\nT:Air\nM:3/4\nL:1/8\nQ:1/4=90\nK:G\n|: G2 A2 (3BAG | ^c'4 z2 | [GB]6- :|\n\nX:2\nT:Jig\nM:6/8\nK:D\nDEF A2d |]\n"
RECIPE = (
    "---\ntitle: Leek soup\ntags: [a, b]\n---\n\n## Ingredients\n\n- leek\n- *salt*\n\n## Directions\n\n1. Cut it.\n2. Boil.\n"
)
TALK = "A: hello, how are you?\nB: fine\nand well\n\nA: bye\nB.2: good bye\n"
TEXT = "Héllo there, how are you?\nFine — thanks.\n"
TS = "@problemName a\n@timeStamps false\n@classLabel true up down\n@data\n1,2,3:4,5,6:up\n3,2.5,1:1,-1e3,0:down\n"
TABLE = "date,series,sold,asked\n" + "".join(f"2024-01-0{i},{'ab'[i > 4]},{i}.5,{i * i}\n" for i in range(1, 9))


def text(content: str) -> Callable[[], bytes]:
    return partial(content.encode, "utf-8")


def written(name: str, write: Callable[[Path], object]) -> Callable[[], bytes]:
    """The content of a file that is written at a path."""

    @cache
    def sample() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            write(path := Path(folder) / name)
            return path.read_bytes()

    return sample


def archive(**members: str) -> Callable[[], bytes]:
    import zipfile

    def sample() -> bytes:
        with zipfile.ZipFile(made := io.BytesIO(), "w") as file:
            for name, content in members.items():
                file.writestr("META-INF/container.xml" if name == "container" else f"{name}.xml", content)
        return made.getvalue()

    return sample


def matlab(path: Path) -> None:
    from scipy.io import savemat

    roll = np.eye(3, 88)
    cells = np.empty((1, 1), object)
    cells[0, 0] = roll
    savemat(path, dict.fromkeys(("traindata", "validdata", "testdata"), cells), do_compression=False)


def manifest(path: Path) -> None:
    spec = Spec(5, (State(0, 0, "h", (0.0, 0.0, 0.0)),))
    signatures = {
        name: {side: [dataclasses.asdict(t) for t in getattr(signature, side)] for side in ("inputs", "outputs")}
        for name, signature in spec.signatures.items()
    }
    state = {"input": "state_0_in", "output": "state_0_out", "layer": 0, "role": "h", "initial": 0.0}
    beside = {"path": "vocabulary.json", "bytes": 3, "sha256": "0" * 64}
    file = {**beside, "path": "m.tflite", "format": "tflite", "precision": "float32", "signatures": ["step"], "profile": "app"}
    content = {"signatures": signatures, "states": [state], "vocabulary": beside, "classes": list("abcde"), "files": [file]}
    path.write_text(json.dumps(content), "utf-8")


def of_bundle(path: Path) -> Any:
    """All that is read of a bundle before an engine sees a file of it."""
    content = reading.read(path.parent)
    spec = reading.spec_of(path.parent, content)
    reading.classes_of(path.parent, content, spec)
    reading.framing_of(path.parent, content, spec)
    named = [*reading.files_of(path.parent, content), reading.vocabulary_of(path.parent, content)]
    return [reading.checked(path.parent, file) for file in named if file]


def chat_lines(path: Path) -> list[str]:
    """As `generate --chat` reads standard input."""
    with path.open() as stream, patch("sys.stdin", stream):
        return list(chat.lines())


def session() -> Session:
    """A stream whose model never runs."""
    spec = Spec(len(VOCABULARY), (State(0, 0, "h", (0.0, 0.5, 0.0)),))
    return Session(Runner(spec, {}), VOCABULARY, bytes(range(32)))


def sums(path: Path) -> Any:
    Run(path.parent).check()


def labels() -> dict[str, Any]:
    return {"x": np.arange(12, dtype=np.float32).reshape(2, 3, 2), "y": np.array(["a", "b"]), "lengths": np.array([3, 2])}


CODES = [np.array([[3, 0], [88, 1], [89, -1]], np.int32)] * 2
SERIES = [
    series.Series("a", np.arange(5.0), np.ones((5, 1)), ("b",), np.arange("2024-01-01", "2024-01-06", dtype="M8[D]"), "D")
]
ROLLS = [np.eye(3, 88, dtype=np.uint8)]
DURATIONS = melody.Durations((6, 12, 24))
SEQUENCES = Sequences([np.arange(4, dtype=np.int32)] * 2, [np.array(0), np.array(1)])
CONFIG = {
    "task": "next-word",
    "model": {"cell": "lstm", "units": 8, "dropout": 0.1},
    "training": {"time_limit": None, "seed": 3},
}
VOCABULARY = Vocabulary.learn([TEXT], "word", lower=True)
FRAMING = Framing(2, 3, 0, True, ("b",), (1.0,), (2.0,), "D")
CLASSES = {"classes": ["a", "b"], "features": 2, "each_timestep": False}


def npz(**arrays: Any) -> Callable[[], bytes]:
    return written("a.npz", lambda path: np.savez_compressed(path, **arrays))


READERS = [
    Reader("text", "a.txt", text(TEXT), corpus.read_text),
    Reader("standard input", "a.txt", text(TEXT), lambda path: corpus.checked_text(path.read_bytes(), "standard input")),
    Reader("lines of a chat", "a.txt", text(TALK), chat_lines),
    Reader("saved session", "stream", lambda: session().save(), lambda path: session().restore(path.read_bytes())),
    Reader("folder of texts", "a.txt", text(TEXT), lambda path: corpus.read_files(path.parent)),
    Reader("conversations", "a.txt", text(TALK), lambda path: forms.documents("conversation", str(path))),
    Reader("recipe", "a.md", text(RECIPE), lambda path: forms.documents("recipe", str(path))),
    Reader("folder of recipes", "a.md", text(RECIPE), lambda path: forms.documents("recipe", str(path.parent))),
    Reader("pairs", "a.tsv", text("one\tun\ntwo\tdeux\n"), pairs.read),
    Reader("labelled texts", "a.tsv", text("up\tit rises\ndown\tit falls\n"), labelled.read),
    Reader("labelled series", "a.csv", text('label,v\nup,1,2.5,3e2\n"a b",-1,0.5\n'), labelled.read),
    Reader("series of the archives", "a.ts", text(TS), labelled.read),
    Reader("labelled arrays", "a.npz", npz(**labels()), labelled.read),
    Reader("sequences to add in", "a.npz", npz(x=np.ones((2, 3, 2)), y=np.ones(2)), adding.read),
    Reader("table to forecast", "a.csv", text(TABLE), lambda path: series.read(path, "sold")),
    Reader("rolls", "a.npz", npz(air=np.eye(3, 88, dtype=np.uint8)), lambda path: pieces.read(path, 1.0)),
    Reader("rolls of MATLAB", "a.mat", written("a.mat", matlab), lambda path: pieces.read(path, 1.0)),
    Reader("MIDI as rolls", "a.mid", written("a.mid", partial(write_midi, SCORE)), lambda path: pieces.read(path, 1.0)),
    Reader("MIDI as melodies", "a.mid", written("a.mid", partial(write_midi, SCORE)), melody.read),
    Reader("MusicXML", "a.musicxml", text(XML), lambda path: pieces.read(path, 0.25)),
    Reader("compressed MusicXML", "a.mxl", archive(container=CONTAINER, a=XML), melody.read),
    Reader("ABC", "a.abc", text(ABC), lambda path: pieces.read(path, 0.25)),
    Reader("vocabulary", "vocabulary.json", written("a", VOCABULARY.save), Vocabulary.load),
    Reader(
        "subwords",
        "source_vocabulary.model",
        written("a", lambda path: Subwords.learn(["one two three", "two four"], 20, True).save(path)),
        lambda path: Subwords.load(path, ("NFC",)),
    ),
    Reader("settings", "config.json", text(json.dumps(CONFIG)), lambda path: config.build({}, config.read_json(path))),
    Reader("checksums", "checksums.json", text(json.dumps({"a.json": "0" * 64, "b/c": "1"})), sums),
    Reader("manifest", "manifest.json", written("a", manifest), of_bundle),
    Reader("classes", "classes.json", text(json.dumps(CLASSES)), lambda path: classify.Coder.load(path.parent)),
    Reader("framing", "framing.json", text(json.dumps(FRAMING.as_json())), lambda path: forecast.load_framing(path.parent)),
    Reader("durations", "durations.json", text(json.dumps(DURATIONS.as_json())), melody.Durations.load),
    Reader("kept melodies", "a.npz", written("a.npz", lambda path: melody.save_codes(path, CODES)),
           lambda path: melody.load_codes(path, DURATIONS)),
    Reader("kept rolls", "a.npz", written("a.npz", lambda path: roll_form.save_rolls(path, ROLLS * 2)),
           roll_form.load_rolls),
    Reader("kept series", "series.npz", written("a.npz", lambda path: series.save(path, SERIES)), series.load),
    Reader("kept sequences", "a.npz", written("a.npz", SEQUENCES.save), Sequences.load),
    Reader("kept tokens", "test_tokens.npy", written("a.npy", lambda path: np.save(path, np.arange(6, dtype=np.int32))),
           lambda path: Run(path.parent).tokens("test").sum()),
]  # fmt: skip
