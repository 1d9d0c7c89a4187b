"""From a translator's run to a bundle: its files, its manifest, and the bundle at work."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import export.__main__
from export import benchmark, reading
from export.runners import FUNCTIONS, TransducerRunner
from export.runtime import ENGINES, load, load_translator
from export.spec import DECODE_STEP, ENCODE
from seqapp.beam_search import Found, KerasTransducer, Transducer
from seqapp.cells import PlainCell
from seqapp.labelled import Example
from seqapp.model import SequenceModel
from seqapp.run import Run
from seqapp.sequences import padded
from seqapp.step import Array
from seqapp.translate import Coder, kept
from tests.conftest import refused

Translated = Callable[..., Run]
FILES = {
    "saved_model": ["saved_model"],
    "tflite": ["model.tflite"],
    "onnx": ["encode.onnx", "decode_step.onnx"],
}
UNITS = 32
SMALLER = ["model.dynamic.tflite", "model.float16.tflite", "encode.int8.onnx", "decode_step.int8.onnx"]
DROP = object()  # in a manifest, to be left out


@pytest.fixture(scope="module")
def run(translated: Translated) -> Run:
    """Of two layers with two states each: all that could be mixed up."""
    return translated("--cell", "lstm", "--layers", "2", "--epochs", "8")


@pytest.fixture(scope="module")
def bundle(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("translator") / "bundle"
    assert export.__main__.main([str(run.path), "--out", str(path), "--quantize", "dynamic", "float16", "int8"]) == 0
    return path


@pytest.fixture(scope="module")
def held_out(run: Run) -> list[Example]:
    return kept(run.path, "test")


@pytest.fixture(scope="module")
def coder(run: Run) -> Coder:
    return Coder.load(run.path, run.config)


@pytest.fixture(scope="module")
def wanted(run: Run, coder: Coder, held_out: list[Example]) -> Found:
    """What Keras makes of the held-out sources."""
    return coder.search(KerasTransducer(run.load_model()), [coder.source_of(pair) for pair in held_out])


def opened(bundle: Path, format: str) -> TransducerRunner:
    content = reading.read(bundle)
    spec = reading.translation_spec_of(bundle, content)
    functions = [FUNCTIONS[format](bundle / name, spec.signatures) for name in FILES[format]]
    return TransducerRunner(spec, {name: one for some in functions for name, one in some.items()})


def rewritten(bundle: Path, target: Path, *changes: tuple[Any, tuple[Any, ...]]) -> Path:
    """A copy of a bundle whose manifest has other values in some places; `DROP` leaves one out."""
    shutil.copytree(bundle, target, dirs_exist_ok=True)
    content = json.loads((target / "manifest.json").read_text("utf-8"))
    for value, (*outer, last) in changes:
        place = content
        for key in outer:
            place = place[key]
        if value is DROP:
            del place[last]
        else:
            place[last] = value
    (target / "manifest.json").write_text(json.dumps(content), "utf-8")
    return target


def tensor(name: str, dtype: str, *shape: str | int) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": list(shape)}


def states(end: str) -> list[dict[str, Any]]:
    return [tensor(f"state_{i}_{end}", "float32", "batch", UNITS) for i in range(4)]


def test_the_manifest_declares_both_signatures(bundle: Path, coder: Coder) -> None:
    content = reading.read(bundle)
    assert content["task"] == "translate"
    memory, lengths = tensor("memory", "float32", "batch", "time", 2 * UNITS), tensor("lengths", "int32", "batch")
    logits = tensor("logits", "float32", "batch", len(coder.target))
    assert content["signatures"] == {
        "encode": {"inputs": [tensor("tokens", "int32", "batch", "time"), lengths], "outputs": [memory, *states("out")]},
        "decode_step": {
            "inputs": [tensor("tokens", "int32", "batch"), memory, lengths, *states("in")],
            "outputs": [logits, tensor("attention", "float32", "batch", "time"), *states("out")],
        },
    }
    assert content["states"] == [
        {
            "input": f"state_{i}_in",
            "output": f"state_{i}_out",
            "layer": i // 2,
            "role": "hc"[i % 2],
            "initial_from": "encode",
        }
        for i in range(4)
    ]


def test_the_manifest_says_how_texts_become_tokens_and_how_to_search(bundle: Path, run: Run, coder: Coder) -> None:
    t = reading.read(bundle)["translation"]
    assert set(t) == {"beam", "length_penalty", "longest", "source", "target"}
    assert (t["beam"], t["length_penalty"], t["longest"]) == (3, 1.0, 100)
    for side, unit, end in (("source", "character", "\n"), ("target", "symbol", "<eos>")):
        known, path = t[side], bundle / f"{side}_vocabulary.json"
        assert (known["path"], known["bytes"]) == (path.name, path.stat().st_size)
        assert known["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (known["unit"], known["end"], known["unknown"], known["normalization"]) == (unit, end, "<unk>", ["NFC"])
        assert known["size"] == len(getattr(coder, side))
        assert path.read_bytes() == (run.path / path.name).read_bytes()


def test_the_manifest_names_every_file_with_what_it_holds(bundle: Path, held_out: list[Example]) -> None:
    files = {file["path"]: file for file in reading.read(bundle)["files"]}
    assert set(files) == {*chain(*FILES.values()), *SMALLER}
    for name, file in files.items():
        held = [part for part in (ENCODE, DECODE_STEP) if name.startswith(part)] or [ENCODE, DECODE_STEP]
        assert file["signatures"] == list(file["latency"]) == held
        same = file["metrics"]["translated_as_keras"]
        assert same["count"] == len(held_out)
        assert same["value"] == 1 if file["precision"] == "float32" else same["value"] > 0.9
        if name != "saved_model":
            assert file["sha256"] == hashlib.sha256((bundle / name).read_bytes()).hexdigest()
    beside = {"manifest.json", "README.md", "source_vocabulary.json", "target_vocabulary.json"}
    assert {path.name for path in bundle.iterdir()} == {*files, *beside}
    parity = reading.read(bundle)["parity"]
    assert {(entry["file"], entry["signature"]) for entry in parity} == {
        (name, held) for name, file in files.items() for held in file["signatures"]
    }
    exact = [entry for entry in parity if files[entry["file"]]["precision"] == "float32"]
    assert all(entry["largest_difference"] <= entry["tolerance"] for entry in exact)


def test_the_readme(bundle: Path) -> None:
    text = (bundle / "README.md").read_text("utf-8")
    for part in (
        "# translate",
        'print(load_translator("bundle").translate("a text"))',
        "A source is cut into characters as `source_vocabulary.json` says and closed by `'\\n'`",
        "A target is cut into symbols as `target_vocabulary.json` says and closed by `'<eos>'`",
        "`encode` takes `tokens` int32 [batch, time], `lengths` int32 [batch], and gives `memory` float32 [batch, time, 64]",
        "`decode_step` takes `tokens` int32 [batch], `memory` float32 [batch, time, 64], `lengths` int32 [batch]",
        "`attention` says where",
        "keeps 3 hypotheses",
    ):
        assert part in text
    for name in (*chain(*FILES.values()), *SMALLER):
        assert f"| {name} | " in text


@pytest.mark.parametrize("engine", ENGINES)
def test_translations_are_those_of_keras(
    engine: str, bundle: Path, coder: Coder, held_out: list[Example], wanted: Found
) -> None:
    found = load_translator(bundle, engine).translations([str(pair.sequence) for pair in held_out])
    for some, others in zip(found, wanted, strict=True):
        assert [text for text, _ in some] == [coder.target.decode(one.tokens) for one in others]
        np.testing.assert_allclose(
            [p for _, p in some], [np.exp(one.score) for one in others], rtol=1e-4, atol=1e-12, equal_nan=False
        )
    right = np.mean([some[0][0] == pair.label for some, pair in zip(found, held_out, strict=True)])
    assert right > 0.3, "it has learnt something that could be lost"


def test_translations_of_the_saved_model_are_those_of_keras(
    bundle: Path, coder: Coder, held_out: list[Example], wanted: Found
) -> None:
    found = coder.search(opened(bundle, "saved_model"), [coder.source_of(pair) for pair in held_out])
    for some, others in zip(found, wanted, strict=True):
        assert [one.tokens for one in some] == [one.tokens for one in others]
        for one, other in zip(some, others, strict=True):
            assert np.exp(one.score) == pytest.approx(np.exp(other.score), rel=1e-4, abs=1e-12)
            np.testing.assert_allclose(one.attention, other.attention, rtol=0, atol=1e-4, equal_nan=False)


@pytest.mark.parametrize(("engine", "precision"), [("litert", "dynamic"), ("litert", "float16"), ("onnx", "int8")])
def test_smaller_files_say_nearly_the_same(
    engine: str, precision: str, bundle: Path, coder: Coder, held_out: list[Example], wanted: Found
) -> None:
    texts = [str(pair.sequence) for pair in held_out]
    exact, found = (load_translator(bundle, engine, which).translations(texts) for which in ("float32", precision))
    same = [some[0][0] == coder.target.decode(others[0].tokens) for some, others in zip(found, wanted, strict=True)]
    assert np.mean(same) > 0.9
    changed = max(abs(some[0][1] - other[0][1]) for some, other in zip(found, exact, strict=True))
    assert changed > 1e-6, "it is another file"


def refused_by_export(run: Run, folder: Path, flags: list[str], capsys: pytest.CaptureFixture[str], part: str) -> None:
    """Exit status 2, one line, and nothing left in the folder."""
    capsys.readouterr()
    assert export.__main__.main([str(run.path), "--out", str(folder / "bundle"), *flags]) == 2
    out, err = capsys.readouterr()
    (error,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert part in error
    assert out == "" and "Traceback" not in err
    assert not list(folder.iterdir())


def said(model: Transducer, sources: list[Array], told: Array) -> list[tuple[Array, ...]]:
    """Memory up to its length, first states, and logits, attention and states along what is told, of each source."""
    tokens, lengths = padded(sources)
    memory, states = model.encode(tokens, lengths)
    whole, up_to_length = list(states), [memory]
    for now in told.T:
        logits, states, attention = model.decode_step(now, states, memory, lengths)
        whole += [logits, *states]
        up_to_length.append(attention)
    return [(*(part[row] for part in whole), *(part[row, :n] for part in up_to_length)) for row, n in enumerate(lengths)]


@pytest.mark.parametrize("format", FILES)
def test_padding_changes_nothing(format: str, bundle: Path, coder: Coder, held_out: list[Example]) -> None:
    model = opened(bundle, format)
    sources = sorted({len(pair.sequence): coder.source_of(pair) for pair in held_out}.values(), key=len)
    assert len({len(source) for source in sources}) >= 4
    told = np.random.default_rng(0).integers(0, len(coder.target), (len(sources), 5)).astype(np.int32)
    for row, (source, together) in enumerate(zip(sources, said(model, sources, told), strict=True)):
        (alone,) = said(model, [source], told[row : row + 1])
        for one, other in zip(together, alone, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5, equal_nan=False)


@pytest.mark.parametrize("format", FILES)
def test_attention_is_a_share_of_each_timestep_of_a_source(
    format: str, bundle: Path, coder: Coder, held_out: list[Example]
) -> None:
    model = opened(bundle, format)
    tokens, lengths = padded([coder.source_of(pair) for pair in held_out[:12]])
    assert len(set(lengths.tolist())) >= 3
    memory, after = model.encode(tokens, lengths)
    inside = np.arange(tokens.shape[1]) < lengths[:, None]
    for token in range(3):
        _, after, attention = model.decode_step(np.full(len(tokens), token, np.int32), after, memory, lengths)
        np.testing.assert_allclose(attention.sum(1), 1, rtol=0, atol=1e-5, equal_nan=False)
        assert (attention[~inside] == 0).all()
        assert (attention[inside] > 0).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_source_of_any_length_up_to_the_longest_is_translated(engine: str, bundle: Path) -> None:
    model = load_translator(bundle, engine)
    assert model.translations([]) == []
    for text in ("", "ba" * 49 + "h", "Ω", "ba\nce"):
        assert all(0 < chance <= 1 for _, chance in model.translations([text])[0])


def test_threads_may_share_a_translator(bundle: Path, held_out: list[Example]) -> None:
    model, texts = load_translator(bundle), [str(pair.sequence) for pair in held_out[:8]]
    alone = [model.translate(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(model.translate, texts)) == alone


class TestRefused:
    def test_a_source_that_is_too_long(self, bundle: Path) -> None:
        model = load_translator(bundle)
        refused(lambda: model.translations(["ba", "ba" * 60]), "text 2: the source has 121 tokens", "built for 100")
        refused(lambda: model.translate("ba" * 50), "text 1: the source has 101 tokens")

    @pytest.mark.parametrize("length", [0, 4])
    def test_lengths_that_do_not_fit(self, length: int, bundle: Path) -> None:
        """LiteRT would read what lies before a source or behind it."""
        runner = load_translator(bundle, "litert").runner
        memory, after = runner.encode(np.zeros((1, 3), np.int32), np.array([3]))
        with pytest.raises(ValueError, match="lengths must be 1 numbers from 1 to 3"):
            runner.encode(np.zeros((1, 3), np.int32), np.array([length]))
        with pytest.raises(ValueError, match="lengths must be 1 numbers from 1 to 3"):
            runner.decode_step(np.zeros(1, np.int32), after, memory, np.array([length]))

    def test_a_precision_or_an_engine_that_is_not_there(self, bundle: Path) -> None:
        refused(lambda: load_translator(bundle, "litert", "int8"), "precision 'int8' for litert", "float16 for litert")
        refused(lambda: load_translator(bundle, "onnx", "float16"), "precision 'float16' for onnx", "int8 for onnx")
        refused(lambda: load_translator(bundle, precision="float64"), "precision 'float64' for an engine")
        refused(lambda: load_translator(bundle, "torch"), "no engine 'torch'", "litert, onnx")

    def test_each_kind_of_bundle_has_its_own_loader(self, bundle: Path, tmp_path: Path) -> None:
        refused(lambda: load(bundle), "encoder-decoder", "load it with export.runtime.load_translator")
        model = SequenceModel(9, [PlainCell(5)], 4)
        export.convert(model, tmp_path / "text", formats=["onnx"], inputs=np.arange(300) % 9)
        refused(lambda: load_translator(tmp_path / "text"), "no encoder-decoder", "load it with export.runtime.load")
        refused(lambda: load_translator(tmp_path), "is no bundle", "python -m export")

    @pytest.mark.parametrize(
        ("value", "where"),
        [
            (None, ("translation",)),
            (DROP, ("translation",)),
            ("three", ("translation", "beam")),
            (2.5, ("translation", "longest")),
            (None, ("translation", "length_penalty")),
            (DROP, ("translation", "longest")),
            (None, ("translation", "source")),
            (DROP, ("translation", "target", "sha256")),
            (7, ("translation", "target", "path")),
            (7, ("signatures", DECODE_STEP, "inputs", 1, "shape", 2)),
            ("float64", ("signatures", DECODE_STEP, "inputs", 1, "dtype")),
            ("looked", ("signatures", DECODE_STEP, "outputs", 1, "name")),
            (99, ("signatures", DECODE_STEP, "outputs", 0, "shape", 1)),
            ("other", ("signatures", ENCODE, "outputs", 0, "name")),
            ([1, "time"], ("signatures", ENCODE, "inputs", 0, "shape")),
            ({}, ("signatures", DECODE_STEP)),
            (DROP, ("signatures", DECODE_STEP)),
            (None, ("signatures",)),
            ([], ("states",)),
            (DROP, ("states", 3)),
            (None, ("states", 0, "input")),
            (None, ("files", 1, "signatures")),
            (0, ("translation", "beam")),
            (-3, ("translation", "longest")),
            (1e30, ("translation", "length_penalty")),
            ("nowhere", ("translation", "target", "unit")),
            ("word", ("translation", "source", "unit")),
            ("state_1_in", ("states", 0, "input")),
        ],
    )
    def test_a_damaged_manifest_is_one_line(self, value: Any, where: tuple[Any, ...], bundle: Path, tmp_path: Path) -> None:
        path = rewritten(bundle, tmp_path / "copy", (value, where))
        refused(lambda: load_translator(path), "manifest.json is damaged (", "copy it again, or export again")

    def test_a_vocabulary_outside_the_bundle(self, bundle: Path, tmp_path: Path) -> None:
        path = rewritten(bundle, tmp_path / "copy", ("../source_vocabulary.json", ("translation", "source", "path")))
        shutil.copy(bundle / "source_vocabulary.json", tmp_path)
        refused(lambda: load_translator(path), "'../source_vocabulary.json'", "is not in the bundle")

    @pytest.mark.parametrize(
        ("name", "engine"),
        [
            ("source_vocabulary.json", "litert"),
            ("target_vocabulary.json", "onnx"),
            ("model.tflite", "litert"),
            ("encode.onnx", "onnx"),
            ("decode_step.onnx", "onnx"),
        ],
    )
    def test_a_file_that_is_missing_or_changed(self, name: str, engine: str, bundle: Path, tmp_path: Path) -> None:
        path = Path(shutil.copytree(bundle, tmp_path / "copy"))
        content = (path / name).read_bytes()
        (path / name).write_bytes(content[:-1] + b"!")
        refused(lambda: load_translator(path, engine), name, "was changed")
        (path / name).write_bytes(content[:-1])
        refused(lambda: load_translator(path, engine), name, f"{len(content) - 1} bytes and should have {len(content)}")
        (path / name).unlink()
        refused(lambda: load_translator(path, engine), "There is no file", name)

    def test_a_file_of_the_right_checksum_that_no_engine_reads(self, bundle: Path, tmp_path: Path) -> None:
        names = [file["path"] for file in reading.read(bundle)["files"]]
        for name, engine in (("model.tflite", "litert"), ("decode_step.onnx", "onnx")):
            place, junk = ("files", names.index(name)), b"not a model"
            digest = hashlib.sha256(junk).hexdigest()
            path = rewritten(bundle, tmp_path / engine, (len(junk), (*place, "bytes")), (digest, (*place, "sha256")))
            (path / name).write_bytes(junk)
            refused(lambda path=path, engine=engine: load_translator(path, engine), "The engine refuses", name)

    def test_files_that_are_not_what_the_manifest_says(self, bundle: Path, tmp_path: Path) -> None:
        names = [file["path"] for file in json.loads((bundle / "manifest.json").read_text())["files"]]
        places = [names.index(name) for name in FILES["onnx"]]
        changes = [([held], ("files", i, "signatures")) for i, held in zip(places, (DECODE_STEP, ENCODE), strict=True)]
        path = rewritten(bundle, tmp_path / "copy", *changes)
        refused(lambda: load_translator(path, "onnx"), "The engine refuses", "export again")

    def test_without_the_file_of_one_signature_there_is_none(self, bundle: Path, tmp_path: Path) -> None:
        names = [file["path"] for file in reading.read(bundle)["files"]]
        path = rewritten(bundle, tmp_path / "copy", (DROP, ("files", names.index("decode_step.onnx"))))
        refused(lambda: load_translator(path, "onnx"), "no file of precision 'float32' for onnx", "There is: int8 for onnx")

    def test_a_vocabulary_of_another_size(self, bundle: Path, tmp_path: Path) -> None:
        other = reading.read(bundle)["translation"]["source"]
        path = rewritten(bundle, tmp_path / "copy", (other, ("translation", "target")))
        refused(lambda: load_translator(path), "13 outputs, and 14 tokens of a target")

    @pytest.mark.parametrize(
        ("flags", "part"),
        [
            (["--profile", "micro"], "leave micro out"),
            (["--trainable"], "leave trainable out"),
            (["--format", "tflite", "--quantize", "int8"], "leave int8 out, or add onnx"),
        ],
    )
    def test_files_that_there_are_not(
        self, flags: list[str], part: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        refused_by_export(run, tmp_path, flags, capsys, part)

    def test_a_run_that_lost_its_data(self, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        copy, out = Run(Path(shutil.copytree(run.path, tmp_path / "run"))), tmp_path / "out"
        out.mkdir()
        for name in ("test_pairs.tsv", "target_vocabulary.json"):
            (copy.path / name).unlink()
            refused_by_export(copy, out, ["--format", "onnx"], capsys, name)

    def test_the_benchmark_is_for_models_with_a_step(self, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert benchmark.main([str(bundle)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "encoder-decoder" in err
        assert "\n" not in err.strip()


def test_subwords_travel_in_the_bundle(translated: Translated, tmp_path: Path) -> None:
    run = translated("--source-unit", "subword", "--target-unit", "subword", "--subwords", "30", "--epochs", "1")
    path = tmp_path / "bundle"
    assert export.__main__.main([str(run.path), "--out", str(path), "--format", "onnx"]) == 0
    coder = Coder.load(run.path, run.config)
    pairs = kept(run.path, "test")[:10]
    wanted = coder.search(KerasTransducer(run.load_model()), [coder.source_of(pair) for pair in pairs])
    # Without a file for LiteRT, ONNX Runtime is what it is loaded with.
    found = load_translator(path).translations([str(pair.sequence) for pair in pairs])
    assert [some[0][0] for some in found] == [coder.target.decode(some[0].tokens) for some in wanted]
    content = json.loads((path / "manifest.json").read_text("utf-8"))["translation"]
    for side in ("source", "target"):
        known, file = content[side], path / f"{side}_vocabulary.model"
        assert file.read_bytes() == (run.path / file.name).read_bytes()
        assert (known["path"], known["sha256"]) == (file.name, hashlib.sha256(file.read_bytes()).hexdigest())
        assert (known["unit"], known["end"], known["normalization"]) == ("subword", "</s>", ["NFC"])
        assert "token_pattern" not in known
    assert "A source is cut into subwords as `source_vocabulary.model` says" in (path / "README.md").read_text("utf-8")
    refused(lambda: load_translator(path, "litert"), "no file of precision 'float32' for litert", "There is: none")
    junk = b"not a model"
    changes = ((len(junk), "bytes"), (hashlib.sha256(junk).hexdigest(), "sha256"))
    (path / "source_vocabulary.model").write_bytes(junk)
    rewritten(path, tmp_path / "copy", *((value, ("translation", "source", key)) for value, key in changes))
    refused(lambda: load_translator(tmp_path / "copy"), "source_vocabulary.model cannot be read as a model of subwords")
