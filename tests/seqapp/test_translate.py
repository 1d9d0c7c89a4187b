"""The task `translate`: its numbers, its commands, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seqapp import config as configuration
from seqapp import evaluate, predict
from seqapp.config import Config, DataConfig
from seqapp.labelled import Example
from seqapp.run import Run
from seqapp.subwords import Subwords
from seqapp.task_config import TranslateConfig
from seqapp.train import main as train
from seqapp.translate import Coder, keep, kept, load
from seqapp.vocabulary import Vocabulary
from tests.conftest import refused, sentences

Translated = Callable[..., Run]
PAIRS = [Example(line, line.upper(), f"talk, line {i}") for i, line in enumerate(sentences(60).splitlines(), 1)]


@pytest.fixture(scope="module")
def run(translated: Translated) -> Run:
    return translated()


def learned(**changes: object) -> tuple[Coder, Config]:
    config = Config(task="translate", data=DataConfig(min_count=1), translate=replace(TranslateConfig(), **changes))
    return Coder.learn(PAIRS, config), config


class TestCoder:
    @pytest.mark.parametrize(
        ("source", "target"), [("subword", "character"), ("word", "symbol"), ("symbol", "subword"), ("character", "word")]
    )
    def test_what_is_kept_is_the_same(self, source: str, target: str, tmp_path: Path) -> None:
        coder, config = learned(source_unit=source, target_unit=target, subwords=80)
        assert (coder.source.unit, coder.target.unit) == (source, target)
        assert isinstance(coder.source, Subwords if source == "subword" else Vocabulary)
        coder.save(tmp_path)
        again = Coder.load(tmp_path, config)
        assert again == coder
        for one, other in zip(coder.coded(PAIRS), again.coded(PAIRS), strict=True):
            np.testing.assert_array_equal(one[0], other[0])
            np.testing.assert_array_equal(one[1], other[1])
            assert one[0][-1] == one[1][-1] == 1, "the end"

    @pytest.mark.parametrize("unit", ["word", "character", "symbol", "subword"])
    def test_a_translation_is_text_again(self, unit: str) -> None:
        coder, _ = learned(target_unit=unit, subwords=80)
        for pair, (_, target) in zip(PAIRS, coder.coded(PAIRS), strict=True):
            assert coder.target.decode(target) == str(pair.label).lower()

    def test_what_is_longer_than_the_model_is_refused_by_its_place(self) -> None:
        coder, _ = learned(source_unit="character", longest=90)
        fitting = Example("a" * 89, None, "talk, line 1")
        assert len(coder.source_of(fitting)) == 90
        long = replace(fitting, sequence="a" * 90, place="talk, line 7")
        refused(lambda: coder.source_of(long), "talk, line 7: the source has 91 tokens", "built for 90", "--longest")
        both = Example("a", "B " * 90, "talk, line 8")
        refused(lambda: coder.coded([both]), "talk, line 8: the target has")

    def test_a_vocabulary_that_is_missing_or_damaged(self, tmp_path: Path) -> None:
        coder, config = learned(source_unit="word", subwords=80)
        coder.save(tmp_path)
        (tmp_path / "target_vocabulary.model").write_bytes(b"no")
        refused(lambda: Coder.load(tmp_path, config), "target_vocabulary.model")
        (tmp_path / "source_vocabulary.json").unlink()
        refused(lambda: Coder.load(tmp_path, config), "source_vocabulary.json")


def test_pairs_are_kept_in_a_run(tmp_path: Path) -> None:
    keep(tmp_path, "test", PAIRS)
    assert [(p.sequence, p.label) for p in kept(tmp_path, "test")] == [(p.sequence, p.label) for p in PAIRS]
    refused(lambda: kept(tmp_path, "train"), "train_pairs.tsv")


def test_a_source_is_in_one_part_alone(tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_text("".join(f"{i % 60}\t{i}\n" for i in range(300)), "utf-8")
    parts = load(Config(task="translate", data=DataConfig(data=str(tmp_path / "pairs.tsv"), test_fraction=0.2)))
    sources = [{pair.sequence for pair in some} for some in parts.values()]
    assert len(sources) == 3
    assert sum(map(len, sources)) == 60
    assert sum(map(len, parts.values())) == 300


class TestRun:
    def test_it_has_learnt_and_its_figures_say_so(self, run: Run) -> None:
        test, baselines = run.metrics["test"], run.metrics["baselines"]
        assert test["exact_match"]["value"] > 0.8 > baselines["translation_memory"]["exact_match"]["value"]
        assert test["word_error_rate"]["value"] == pytest.approx(1 - test["exact_match"]["value"])
        assert test["symbol_error_rate"]["value"] < 0.05
        assert test["perplexity"]["value"] == pytest.approx(np.exp(test["nats_per_token"]["value"]))
        assert baselines["source_itself"]["exact_match"]["value"] == 0
        assert set(run.metrics["validation"]) == set(test)
        for name in ("attention.png", "learning_curve.png", "history.csv", "test_pairs.tsv", "source_vocabulary.json"):
            assert (run.path / name).stat().st_size > 0

    def test_evaluate_says_the_same(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        assert evaluate.main([str(run.path), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["baselines"] == run.metrics["baselines"]
        for part in ("validation", "test"):
            for name, row in run.metrics[part].items():
                assert found[part][name]["value"] == pytest.approx(row["value"], rel=1e-5), name

    def test_evaluate_of_other_pairs(self, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        shutil.copy(run.path / "train_pairs.tsv", tmp_path / "mine.tsv")
        assert evaluate.main([str(run.path), "--data", str(tmp_path / "mine.tsv")]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("data, 2")
        assert lines[-1].split()[0] == "translation-memory"
        assert lines[-1].split()[-1] == "100.0%", "the memory knows all of the training"

    def test_predict_writes_rows_with_references_where_there_are_some(
        self, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pairs = kept(run.path, "test")[:20]
        path = tmp_path / "in.tsv"
        path.write_text("".join(f"{p.sequence}\t{p.label}\n" if i else f"{p.sequence}\n" for i, p in enumerate(pairs)), "utf-8")
        assert predict.main([str(run.path), "--input", str(path)]) == 0
        header, *rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
        assert header == ["input", "reference", "prediction", "score"]
        assert [row[0] for row in rows] == [pair.sequence for pair in pairs]
        assert [row[1] for row in rows] == ["", *(pair.label for pair in pairs[1:])]
        assert np.mean([row[2] == pair.label for row, pair in zip(rows, pairs, strict=True)]) > 0.8
        assert all(0 < float(row[3]) <= 1 for row in rows)

    def test_predict_as_json_has_what_the_beam_found(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "in.txt").write_text("bacenodu\n", "utf-8")
        table, out = tmp_path / "out.tsv", tmp_path / "out.json"
        for flags in ([str(table)], [str(out), "--json"]):
            assert predict.main([str(run.path), "--input", str(tmp_path / "in.txt"), "--output", *flags]) == 0
        found = json.loads(out.read_text())
        assert found["input"] == "bacenodu"
        assert found["prediction"] == table.read_text("utf-8").splitlines()[1].split("\t")[1]
        assert len(found["likely"]) == 3
        assert found["likely"][0] == [found["prediction"], found["score"]]

    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            ("ba\nce\tx\ty\n", ("in.txt, line 2 has 3 columns",)),
            ("ba\nce\t\n", ("in.txt, line 2 has an empty target",)),
            ("ba" * 60 + "\n", ("in.txt, line 1: the source has 121 tokens", "built for 100")),
            ("\n", ("empty",)),
        ],
    )
    def test_predict_refuses_by_the_line(
        self, text: str, parts: tuple[str, ...], run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "in.txt").write_text(text, "utf-8")
        assert predict.main([str(run.path), "--input", str(tmp_path / "in.txt")]) == 2
        error = capsys.readouterr().err.strip()
        assert error.count("\n") == 0
        assert all(part in error for part in parts)

    def test_vocabularies_of_another_training(self, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "run"
        shutil.copytree(run.path, path)
        content = json.loads((path / "target_vocabulary.json").read_text())
        (path / "target_vocabulary.json").write_text(json.dumps({**content, "tokens": content["tokens"][:-1]}))
        Run(path).seal()  # the checksums are of what another training left there
        assert evaluate.main([str(path)]) == 2
        assert "not of the same training" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--source-unit", "sentence"], ("--source-unit", "subword", "sentence")),
        (["--target-language", "de"], ("--target-language", "--source-language")),
        (["--source-language", "en", "--target-language", "xx"], ("Babel has no language 'xx'",)),
        (["--label-smoothing", "1"], ("--label-smoothing", "below 1")),
        (["--beam", "0"], ("--beam", "at least 1")),
        (["--length-penalty", "-1"], ("--length-penalty", "from 0 to 10")),
        (["--longest", "1"], ("--longest", "at least 2")),
    ],
)
def test_a_wrong_flag_is_one_line(flags: list[str], parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert train(["--task", "translate", *flags]) == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0
    assert all(part in error for part in parts)


def test_flags_of_this_task_are_for_it_alone() -> None:
    refused(lambda: configuration.build({"task": "classify", "longest": 5}), "--longest", "translate alone")
