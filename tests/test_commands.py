"""The commands as a user types them, above all the wrong ones."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import export.__main__
import export.benchmark
import seqapp.evaluate
import seqapp.generate
import seqapp.languages
import seqapp.predict
import seqapp.train
from seqapp.run import Run
from tests.commands import run_forked
from tests.training import stopped_before_measuring

SMALL = ["--units", "8", "--embedding", "8", "--epochs", "1"]


def refused(capsys: pytest.CaptureFixture[str], status: int, *parts: str) -> None:
    """One plain line on standard error, exit status 2, nothing on standard output."""
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status == 2, err
    assert out == ""
    assert "Traceback" not in err
    assert len(errors) == 1, err
    for part in parts:
        assert part in errors[0]


@pytest.fixture
def bad_file(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        path = tmp_path / "bad.txt"
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ("is empty", "give a UTF-8 text file")),
        (b" \n\n", ("is empty",)),
        (b"\x89PNG\r\n\x1a\n\0\0\0", ("binary",)),
        ("caf\u00e9 ".encode("latin-1") * 300, ("is not UTF-8", "iconv")),
        (b"just one short line\n", ("too short", "Give more text")),
        (b"yes no\n" * 30, ("84 tokens", "one window of --bptt 100", "give more text, or a smaller --bptt")),
    ],
)
def test_train_refuses_bad_data(
    content: bytes,
    parts: tuple[str, ...],
    bad_file: Callable[[bytes], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "new" / "run"
    status = seqapp.train.main(["--data", str(bad_file(content)), "--run", str(run), "--bptt", "100", *SMALL])
    refused(capsys, status, *parts)
    assert not run.parent.exists()


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--data", "no/such/file"], ("no/such/file", "give a UTF-8 text file")),
        (["--cell", "transformer"], ("--cell", "plain, lstm, gru, cifg", "transformer")),
        (["--cell", "json:Nothing", "--import", "json"], ("no cell json:Nothing",)),
        (["--cell", "mine:Cell", "--import", "no_such_module"], ("--import no_such_module",)),
        (["--units", "0"], ("--units", "at least 1", "Received: 0")),
        (["--layers", "0"], ("--layers",)),
        (["--cell", "plain", "--activation", "nonsense"], ("nonsense",)),
        (["--dropout", "1"], ("--dropout",)),
        (["--learning-rate", "nan"], ("--learning-rate",)),
        (["--task", "next-planet"], ("--task", "next-word, next-character, next-note, classify, forecast")),
        (["--both-ways"], ("--both-ways", "for the task classify", "next-word")),
        (["--task", "next-character", "--fold", "2"], ("--fold", "for the task classify", "next-character")),
        (["--task", "classify", "--unit", "syllable"], ("--unit", "word or character", "syllable")),
        (["--task", "classify"], ("talk.txt should be .tsv, .csv, .ts, .npz", "label TAB text")),
        (["--task", "forecast"], ("talk.txt should be a .csv", "columns of numbers")),
        (["--horizon", "3"], ("--horizon", "for the task forecast", "next-word")),
        (["--form", "poem"], ("--form", "text, conversation, recipe", "poem")),
        (["--config", "no/such.json"], ("no/such.json",)),
        (["--run", "/proc/run"], ("/proc/run", "cannot be written", "--run")),
        (["--resume"], ("--run",)),
        (["--resume", "--run", "no/such/run"], ("no run", "--resume")),
    ],
)
def test_train_refuses_bad_flags(
    flags: list[str], parts: tuple[str, ...], text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    given = [*([] if "--run" in flags or "--resume" in flags else ["--run", str(run)]), *flags]
    given += [] if "--data" in flags or "--resume" in flags else ["--data", str(text_file)]
    refused(capsys, seqapp.train.main(given), *parts)
    assert not run.exists()


@pytest.mark.parametrize("flags", [["--nonsense"], ["--units", "many"]])
def test_flags_that_do_not_parse_are_one_line_too(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        seqapp.train.main(flags)
    refused(capsys, int(str(stop.value.code)), "--help")


def test_train_keeps_a_directory_that_is_there(
    trained: Callable[..., Run], text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained()
    before = run.model_file.read_bytes()
    capsys.readouterr()
    refused(capsys, seqapp.train.main(["--run", str(run.path), "--data", str(text_file)]), "exists", "--overwrite")
    assert run.model_file.read_bytes() == before
    (tmp_path / "letters").write_text("mine")
    status = seqapp.train.main(["--run", str(tmp_path), "--data", str(text_file), "--overwrite"])
    refused(capsys, status, "config.json", "not replaced")
    assert (tmp_path / "letters").read_text() == "mine"


def test_resume_of_a_finished_run_changes_nothing(trained: Callable[..., Run], capsys: pytest.CaptureFixture[str]) -> None:
    run = trained()
    before = run.model_file.read_bytes()
    capsys.readouterr()
    assert seqapp.train.main(["--run", str(run.path), "--resume"]) == 0
    assert capsys.readouterr().out == f"{run.path}\n"
    assert run.model_file.read_bytes() == before


@pytest.fixture
def copied(trained: Callable[..., Run], tmp_path: Path) -> Run:
    """A run that a test may change, as one of a version that wrote no checksums."""
    shutil.copytree(trained().path, tmp_path / "copy", ignore=shutil.ignore_patterns("checksums.json"))
    return Run(tmp_path / "copy")


COMMANDS = [seqapp.evaluate.main, seqapp.generate.main, seqapp.predict.main, export.__main__.main]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_refuse_a_run_that_is_none(
    command: Callable[[list[str]], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, command(["no/such/run"]), "no run directory", "seqapp.train")
    refused(capsys, command([str(tmp_path)]), "config.json", "seqapp.train")


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_refuse_a_run_of_another_task(
    command: Callable[[list[str]], int], copied: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(copied.config_file.read_text())
    copied.config_file.write_text(json.dumps({**content, "task": "compose"}))
    refused(capsys, command([str(copied.path)]), "'compose'", "next-word, next-character, next-note, classify")


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line on standard input, which predict reads."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"how are\n")))


@pytest.mark.usefixtures("typed")
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_refuse_a_vocabulary_of_another_model(
    command: Callable[[list[str]], int], copied: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied.path / "vocabulary.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "tokens": [*content["tokens"], "extra"]}))
    refused(capsys, command([str(copied.path)]), "vocabulary", "not of the same training", "train again")
    assert not (copied.path / "bundle").exists()


@pytest.mark.usefixtures("typed")
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99])
def test_commands_refuse_a_truncated_model(
    command: Callable[[list[str]], int], kept: float, copied: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    content = copied.model_file.read_bytes()
    copied.model_file.write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
    refused(capsys, command([str(copied.path)]), "model.keras is damaged", "train again")
    assert not (copied.path / "bundle").exists()


def test_generate_refuses_flags_that_contradict(capsys: pytest.CaptureFixture[str]) -> None:
    for flags, part in (
        (["--beam", "2", "--seed", "1"], "--beam"),
        (["--beam", "0"], "--beam must be at least 1"),
        (["--length", "0"], "--length must be at least 1"),
        (["--temperature", "-1"], "--temperature"),
        (["--top-p", "1.5"], "--top-p"),
        (["--top-k", "0"], "--top-k"),
    ):
        refused(capsys, seqapp.generate.main(["run", *flags]), part)


def test_generate_prints_a_text(trained: Callable[..., Run], capsys: pytest.CaptureFixture[str]) -> None:
    run = trained()
    capsys.readouterr()
    refused(capsys, seqapp.generate.main([str(run.path), "--output", "a.mid"]), "--output is for music", "leave it out")


def test_generate_continues_a_prompt(trained: Callable[..., Run], capsys: pytest.CaptureFixture[str]) -> None:
    run = str(trained().path)

    def generated(*flags: str) -> tuple[str, str]:
        capsys.readouterr()
        assert seqapp.generate.main([run, "--length", "12", *flags]) == 0
        captured = capsys.readouterr()
        return captured.out, captured.err

    out, err = generated("--prompt", "Are they xylophone", "--seed", "1")
    assert out.startswith("are they xylophone ")
    assert "xylophone" in err
    assert "<unk>" not in out
    assert generated("--prompt", "are they", "--seed", "1") == generated("--prompt", "are they", "--seed", "1")
    greedy = generated("--prompt", "are they", "--temperature", "0")[0]
    assert greedy == generated("--prompt", "are they", "--top-k", "1")[0] == generated("--prompt", "are they", "--beam", "1")[0]
    assert generated("--beam", "3")[0]
    closed = generated("--prompt", "are they\n", "--seed", "1")
    assert closed == generated("--prompt", "are they\n  ", "--seed", "1")
    assert closed[0].startswith("are they\n")


def test_generate_answers_running_text_line_by_line(
    trained: Callable[..., Run], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Are they late now?\nIs she here again?\n")))
    capsys.readouterr()
    assert seqapp.generate.main([str(run.path), "--chat", "--temperature", "0"]) == 0
    assert [answer.split()[0] in ("yes,", "no,") for answer in capsys.readouterr().out.splitlines()] == [True, True]


def test_evaluate_prints_what_the_training_measured(trained: Callable[..., Run], capsys: pytest.CaptureFixture[str]) -> None:
    run = trained()
    capsys.readouterr()
    assert seqapp.evaluate.main([str(run.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for part in ("validation", "test", "baselines"):
        assert found[part] == run.metrics[part]
    assert seqapp.evaluate.main([str(run.path)]) == 0
    assert "kneser-ney-3" in capsys.readouterr().out


def test_evaluate_fits_baselines_where_the_training_left_none(
    trained: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, figures = shutil.copytree(trained().path, tmp_path / "run"), trained().metrics["baselines"]
    monkeypatch.setattr("seqapp.next_token.baselines", lambda *_: {"made anew": figures["unigram"]})
    for names in (set(figures), {"made anew"}):
        capsys.readouterr()
        assert seqapp.evaluate.main([str(run), "--json"]) == 0
        assert set(json.loads(capsys.readouterr().out)["baselines"]) == names
        (run / "metrics.json").unlink(missing_ok=True)


def test_evaluate_measures_another_text(
    trained: Callable[..., Run], text_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert seqapp.evaluate.main([str(trained().path), "--data", str(text_file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["perplexity"]["count"] > 20_000
    refused(capsys, seqapp.evaluate.main([str(trained().path), "--data", "no/such/text"]), "no/such/text")


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--quantize", "int4"], ("--quantize", "dynamic", "float16", "int8", "int4")),
        (["--quantize"], ("--quantize", "expected at least one argument")),
        (["--format", "coreml"], ("--format", "saved_model", "tflite", "onnx", "coreml")),
        (["--profile", "watch"], ("--profile", "micro", "watch")),
    ],
)
def test_export_refuses_flags_that_it_does_not_know(
    flags: list[str], parts: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        export.__main__.main([str(tmp_path), *flags])
    refused(capsys, int(str(stop.value.code)), *parts)


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--format", "onnx", "--quantize", "dynamic"], ("The precision dynamic is for tflite", "Received: onnx")),
        (["--format", "onnx", "--quantize", "int8", "float16"], ("The precision float16 is for tflite", "Received: onnx")),
        (
            ["--format", "saved_model", "--quantize", "int8"],
            ("The precision int8 is for tflite or onnx", "add it to the formats"),
        ),
        (
            ["--format", "onnx", "--profile", "micro", "--quantize", "dynamic"],
            ("The precision dynamic is for tflite", "add it to the formats"),
        ),
    ],
)
def test_export_refuses_a_precision_that_no_format_has(
    flags: list[str], parts: tuple[str, ...], trained: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained()
    capsys.readouterr()
    refused(capsys, export.__main__.main([str(run.path), "--out", str(tmp_path / "bundle"), *flags]), *parts)
    assert not list(tmp_path.iterdir())


def test_benchmark_puts_its_table_into_a_file(
    trained: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ["--format", "tflite", "onnx", "--profile", "micro"]
    assert export.__main__.main([str(trained().path), "--out", str(tmp_path / "bundle"), *wanted]) == 0
    page = tmp_path / "README.md"
    page.write_text(f"before\n{export.benchmark.BEGIN}\nold\n{export.benchmark.END}\nafter\n")
    command = [sys.executable, "-m", "export.benchmark", str(tmp_path / "bundle"), "--repeats", "1", "--readme", str(page)]
    run_forked(command, tmp_path)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    for name in ("model.tflite", "model.onnx"):
        assert f"| {name} |" in text
    # Of the speed of a device nothing is known here.
    assert "| model.micro.tflite |" not in text
    assert "model.micro.tflite, for microcontrollers: " in text
    capsys.readouterr()
    refused(capsys, export.benchmark.main([str(tmp_path)]), "manifest.json")


MODULES = [
    "seqapp.train",
    "seqapp.benchmark",
    "seqapp.evaluate",
    "seqapp.generate",
    "seqapp.predict",
    "export",
    "export.benchmark",
]


@pytest.mark.parametrize("module", MODULES)
def test_help_needs_nothing_heavy(module: str) -> None:
    """With all but the base dependencies blocked, `--help` still answers."""
    code = (
        "import runpy, sys\n"
        "heavy = 'tensorflow keras onnx onnxruntime ai_edge_litert tflite_micro matplotlib tqdm flatbuffers'\n"
        "for name in heavy.split():\n"
        "    sys.modules[name] = None\n"
        f"sys.argv = [{module!r}, '--help']\n"
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert f"usage: python -m {module}" in result.stdout


def test_a_missing_extra_is_named(trained: Callable[..., Run], text_file: Path, tmp_path: Path) -> None:
    run = str(trained().path)
    for module, flags in (
        ("seqapp.train", ["--data", str(text_file), "--run", str(tmp_path / "run")]),
        ("seqapp.evaluate", [run]),
        ("seqapp.generate", [run]),
        ("seqapp.predict", [run, "--input", str(text_file)]),
        ("export", [run, "--out", str(tmp_path / "bundle")]),
    ):
        code = (
            "import runpy, sys\n"
            "sys.modules['tensorflow'] = sys.modules['keras'] = None\n"
            f"sys.argv = {[module, *flags]!r}\n"
            f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert result.returncode == 2
        assert "error: tensorflow is not installed: it comes with pip install 'seqapp[train]'." in result.stderr
        assert not (tmp_path / "run").exists() and not (tmp_path / "bundle").exists()


def test_the_interpreter_of_microcontrollers_is_asked_for_first(tmp_path: Path) -> None:
    """Before a run is opened, and TensorFlow loaded."""
    code = (
        "import runpy, sys\n"
        "sys.modules['tensorflow'] = sys.modules['keras'] = sys.modules['tflite_micro'] = None\n"
        f"sys.argv = ['export', {str(tmp_path)!r}, '--profile', 'micro']\n"
        "runpy.run_module('export', run_name='__main__', alter_sys=True)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: tflite_micro is not installed: it comes with pip install 'seqapp[micro]'.\n"


def test_export_refuses_a_profile_that_it_cannot_prove(
    trained: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained()
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    capsys.readouterr()
    flags = ["--out", str(tmp_path / "bundle"), "--profile", "micro"]
    refused(capsys, export.__main__.main([str(run.path), *flags]), "tflite_micro is not installed", "seqapp[micro]")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def stopped(text_file: Path, tmp_path: Path) -> Path:
    return stopped_before_measuring(tmp_path / "run", "--data", str(text_file), *SMALL)


def test_resume_after_a_stop_between_training_and_measuring(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not (stopped / "metrics.json").exists()
    capsys.readouterr()
    refused(capsys, seqapp.train.main(["--run", str(stopped), "--resume", "--units", "9"]), "own settings", "--epochs")
    assert seqapp.train.main(["--run", str(stopped), "--resume"]) == 0
    assert (stopped / "metrics.json").exists()
    assert not (stopped / "checkpoint").exists()


def test_many_threads_train_the_same_model_twice(text_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "seqapp.train", "--data", str(text_file), "--units", "128", "--batch-size", "32"]
    for name in ("one", "other"):
        run_forked([*command, "--epochs", "1", "--run", name], tmp_path, many_threads=True)
    one, other = (Run.open(tmp_path / name) for name in ("one", "other"))
    for a, b in zip(one.load_model().get_weights(), other.load_model().get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert one.metrics["test"] == other.metrics["test"]


def test_resume_may_ask_for_more_epochs(stopped: Path) -> None:
    assert seqapp.train.main(["--run", str(stopped), "--resume", "--epochs", "2"]) == 0
    assert Run.open(stopped).config.training.epochs == 2
    assert Run.open(stopped).metrics["training"]["epochs"] == 2


CLASSIFY = ["--task", "classify", *SMALL, "--min-count", "1"]


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("data.tsv", "yes\tIt is.\nno\tIt is\tnot.\n", ("data.tsv, line 2", "3 columns")),
        ("data.csv", "up,1,2\ndown,2,x\n", ("data.csv, row 2, column 3", "'x'")),
        ("data.tsv", "".join(f"yes\ttext {i}\n" for i in range(60)), ("two classes or more", "Received: yes")),
        ("data.tsv", "".join(f"text {i}\n" for i in range(60)), ("two classes or more", "Received: none")),
        ("data.csv", "up,1\ndown,2\n", ("Nothing is left for the",)),
        ("data.txt", "yes\tIt is.\n", ("should be .tsv, .csv, .ts, .npz",)),
        ("data.npz", "nothing", ("data.npz cannot be read as .npz",)),
    ],
)
def test_train_refuses_bad_labelled_data(
    name: str, content: str, parts: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(content)
    status = seqapp.train.main(["--data", str(tmp_path / name), "--run", str(tmp_path / "new" / "run"), *CLASSIFY])
    refused(capsys, status, *parts)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_train_refuses_parts_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    (data / "train.tsv").write_text("".join(f"{'ab'[i % 2]}\ttext {i}\n" for i in range(60)))
    command = ["--data", str(data), "--run", str(run), *CLASSIFY]
    (data / "test.tsv").write_text("a\tone\nc\ttwo\n")
    refused(capsys, seqapp.train.main(command), "test.tsv, line 2", "the label 'c'", "expected one of a, b")
    (data / "test.tsv").write_text("a\tone\ntwo\n")
    refused(capsys, seqapp.train.main(command), "test.tsv, line 2 has no label")
    (data / "test.tsv").unlink()
    refused(capsys, seqapp.train.main(command), "must hold one file train and one test")
    (data / "test.csv").write_text("a,1\n")
    refused(capsys, seqapp.train.main(command), "mixes kinds: test.csv, row 1 is a series", "train.tsv, line 1 is a text")
    assert not run.exists()


@pytest.mark.parametrize("name", ["talk", "trend", "sums"])
def test_evaluate_prints_what_the_training_of_a_classifier_measured(
    name: str, classified: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run = classified(name)
    capsys.readouterr()
    assert seqapp.evaluate.main([str(run.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {part: run.metrics[part] for part in ("validation", "test", "baselines")}
    assert seqapp.evaluate.main([str(run.path)]) == 0
    assert "majority" in capsys.readouterr().out


def test_evaluate_measures_a_classifier_on_other_data(
    classified: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, path = classified("trend"), tmp_path / "other.csv"
    path.write_text("rise,5000,5600,6400\nfall,5000,4400,3600\nfall,5000,4500\n")
    capsys.readouterr()
    assert seqapp.evaluate.main([str(run.path), "--data", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["validation"] == run.metrics["validation"]
    assert found["data"]["accuracy"]["count"] == found["baselines"]["linear"]["accuracy"]["count"] == 3
    assert "test" not in found
    for content, part in (("hold,1,2\n", "the label 'hold'"), (",1,2\n", "row 1 has no label"), ("", "is empty")):
        path.write_text(content)
        refused(capsys, seqapp.evaluate.main([str(run.path), "--data", str(path)]), "other.csv", part)


def test_generate_refuses_a_classifier(classified: Callable[..., Run], capsys: pytest.CaptureFixture[str]) -> None:
    run = classified("talk")
    capsys.readouterr()
    refused(capsys, seqapp.generate.main([str(run.path)]), "the task classify generates nothing", "seqapp.predict")


@pytest.mark.parametrize("command", [seqapp.evaluate.main, seqapp.predict.main, export.__main__.main])
@pytest.mark.parametrize(("name", "part"), [("classes.json", "classes.json"), ("model.keras", "model.keras is damaged")])
def test_commands_refuse_a_damaged_classifier(
    command: Callable[[list[str]], int],
    name: str,
    part: str,
    classified: Callable[..., Run],
    labelled_files: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Run(Path(shutil.copytree(classified("trend").path, tmp_path / "run")))
    (run.path / name).write_bytes((run.path / name).read_bytes()[:5])
    more = ["--input", str(labelled_files["trend"])] if command is seqapp.predict.main else []
    capsys.readouterr()
    refused(capsys, command([str(run.path), *more]), part, "restore it, or train again")
    assert not (run.path / "bundle").exists()


def test_a_classifier_is_resumed_with_its_own_data(
    labelled_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    run, data = tmp_path / "run", Path(shutil.copy(labelled_files["trend"], tmp_path / "trend.csv"))
    with monkeypatch.context() as patch:
        patch.setattr("seqapp.label_study.LabelStudy.report", stop)
        assert seqapp.train.main(["--run", str(run), "--data", str(data), *CLASSIFY]) == 130
    content = data.read_text()
    data.write_text("".join(content.splitlines(keepends=True)[:-9]))
    capsys.readouterr()
    refused(capsys, seqapp.train.main(["--run", str(run), "--resume"]), "part is not the one", "restore the data")
    data.write_text(content)
    assert seqapp.train.main(["--run", str(run), "--resume"]) == 0
    assert Run.open(run).metrics["training"]["epochs"] == 1
