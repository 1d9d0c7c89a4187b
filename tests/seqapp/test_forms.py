"""Text made of turns or steps: documents with symbols, and their split."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqapp import corpus
from seqapp.config import build
from seqapp.forms import SYMBOLS, documents, load, of_recipe, of_turns, prompt, written
from seqapp.recipes import Recipe
from seqapp.task_config import FORMS
from tests.conftest import refused, talks

TALK = "<conversation><turn>hello there\nhow are you?\n<turn>fine\n"
SOUP = Recipe("Soup", ("leek", "salt"), (("Boil:", "leek"), ("Eat.",)))
SOUP_TEXT = "<recipe>Soup\n<ingredients>leek\nsalt\n<step>Boil:\nleek\n<step>Eat.\n"


def test_documents_by_hand() -> None:
    assert set(SYMBOLS) == set(FORMS)
    assert of_turns([["hello there", "how are you?"], [""], ["fine"]]) == TALK
    assert of_recipe(SOUP) == SOUP_TEXT
    assert of_recipe(Recipe("", (), (("Eat.",),))) == "<recipe><step>Eat.\n"


def test_symbols_that_people_write_are_none() -> None:
    assert of_turns([["a <turn> b <Conversation>"], ["\u0338c"]]) == (
        "<conversation><turn>a < turn> b < Conversation>\n<turn> \u0338c\n"
    )
    assert of_recipe(Recipe("<STEP>", ("<step><recipe>",), (("<turn>",),))) == (
        "<recipe>< STEP>\n<ingredients>< step>< recipe>\n<step><turn>\n"
    )


def test_the_default_conversations_are_those_of_the_running_text() -> None:
    found, left_out = documents("conversation", None)
    assert not left_out
    assert [key for key, _ in found] == corpus.conversations()
    assert sum(text.count("<turn>") for _, text in found) == 138_725
    assert all(text.startswith("<conversation>") for _, text in found)


def test_a_file_of_conversations_is_split_between_them(tmp_path: Path) -> None:
    path = tmp_path / "talks.txt"
    path.write_text(talks(200))
    flags = {"data": str(path), "form": "conversation", "validation_fraction": 0.2, "test_fraction": 0.2}
    split = load(build(flags), "word")
    parts = [split.train, split.validation, split.test]
    assert sum(map(len, parts)) == 200
    assert [len(part) / 200 for part in parts] == pytest.approx([0.6, 0.2, 0.2], abs=0.08)
    assert {text.count("<turn>") for part in parts for text in part} == {4}
    assert not set(split.train) & set(split.test)
    path.write_text(talks(3))
    refused(lambda: load(build({**flags, "validation_fraction": 0.01}), "word"), "nothing is left", "Give more conversations,")


def test_recipes_are_split_by_their_names(recipe_folder: Path) -> None:
    flags = {"data": str(recipe_folder), "validation_fraction": 0.2, "test_fraction": 0.2, "min_count": 1}
    as_recipes, as_text = (load(build({**flags, **form}), "word") for form in ({"form": "recipe"}, {}))
    for part in ("train", "validation", "test"):
        titles = ["".join(text).split("title: ")[1].split("\n")[0] for text in getattr(as_text, part)]
        assert [text.split("\n")[0] for text in getattr(as_recipes, part)] == [f"<recipe>{title}" for title in titles]


def test_there_are_no_default_recipes() -> None:
    refused(lambda: documents("recipe", None), "There are no default recipes", "give a folder of Markdown files with --data")


def test_prompts(recipe_folder: Path, tmp_path: Path) -> None:
    assert prompt("conversation", "hello there\nfine <turn>") == "<conversation><turn>hello there\n<turn>fine < turn>\n"
    assert prompt("conversation", "A: hello there\nA: how are you?\nB: fine") == TALK
    assert prompt("recipe", " Boil  it.\n\nEat it.\n") == "<recipe><step>Boil it.\n<step>Eat it.\n"
    assert prompt("recipe", str(recipe_folder / "soup.md")).startswith("<recipe>")
    assert prompt("recipe", str(recipe_folder / "soup.md")).count("<step>") == 4
    refused(lambda: prompt("recipe", "soup.md"), "There is no soup.md", "--prompt")
    (tmp_path / "begun.md").write_text("# Soup\n\n## Ingredients\n\n- leek\n")
    assert prompt("recipe", str(tmp_path / "begun.md")) == "<recipe>Soup\n<ingredients>leek\n"


def test_documents_are_written_as_people_read_them() -> None:
    assert written("conversation", TALK) == "A: hello there\nA: how are you?\nB: fine"
    assert prompt("conversation", written("conversation", TALK)) == TALK
    markdown = "# Soup\n\n## Ingredients\n\n- leek\n- salt\n\n## Directions\n\n1. Boil:\n   - leek\n2. Eat."
    assert written("recipe", SOUP_TEXT) == markdown
    # As a model may leave them.
    assert written("recipe", "<recipe>soup\n<ingredients>") == "# soup"
    assert written("conversation", "<conversation>\n<turn>\n<turn>so") == "A: so"
