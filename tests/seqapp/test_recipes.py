"""Recipes in Markdown."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from seqapp.recipes import Recipe, of, read, written
from tests.conftest import refused

SOUP = """---
title: "Leek *soup*"
tags: ['a', 'b']
---

![a picture](/soup.webp)

- Cook time: 30 min

## Ingredients

- 2 **leeks**, [washed](https://example.org)
- salt

### Sauce

- `1/2` cup of
  cream
    - or milk

## Directions

1. Cut the leeks.

   Wash them.
2. Boil:
   - the leeks
   - <b>the</b> salt

### At last

Serve it\\
hot & fresh.

> A quote.

## Notes

- It keeps.
"""


def test_a_recipe_by_hand() -> None:
    assert of(SOUP, "soup.md") == Recipe(
        "Leek *soup*",
        ("2 leeks, washed", "salt", "1/2 cup of cream", "or milk"),
        (("Cut the leeks.", "Wash them."), ("Boil:", "the leeks", "the salt"), ("Serve it hot & fresh.",)),
    )


@pytest.mark.parametrize("heading", ["Directions", "All instructions", "Method:", "Steps", "Preparation of it"])
def test_headings_and_titles(heading: str) -> None:
    text = f"# *Soup* of leek\n\nINGREDIENTS\n---\n\nsalt\n\n## {heading}\n\n* Boil.\n* Eat.\n\n# Other\n\n* No step.\n"
    assert of(text, "x") == Recipe("Soup of leek", ("salt",), (("Boil.",), ("Eat.",)))
    assert of(f"---\ntags: 3\n---\n# A\n## {heading}\nEat.", "x") == Recipe("A", (), (("Eat.",),))
    assert of(f"## {heading}\nEat.", "x") == Recipe("", (), (("Eat.",),))


def test_no_recipe() -> None:
    for text in ("# Soup\n\n## Ingredients\n\n- salt\n", "# Soup\n\n## Directions\n\n![it](a.png)\n", "words\n"):
        refused(lambda text=text: of(text, "soup.md"), "soup.md has no steps: give it a heading Directions")
    assert of("# Soup\n\n## Ingredients\n\n- salt\n", "soup.md", begun=True) == Recipe("Soup", ("salt",), ())
    refused(
        lambda: of("---\na: 1\ntitle: Soup: the best\n---\n## Steps\nEat.\n", "soup.md"), "soup.md, line 3: the front matter"
    )


def test_a_folder_with_odd_files(tmp_path: Path) -> None:
    folder = tmp_path / "recipes"
    (folder / "cold").mkdir(parents=True)
    (folder / "soup.md").write_text(SOUP)
    (folder / "cold/ICE.MD").write_text("# Ice\n\n## Steps\n\n1. Freeze.\n")
    (folder / ".hidden.md").write_text("# Hidden\n\n## Steps\n\n1. Hide.\n")
    (folder / "cover.png").write_bytes(b"\x89PNG\0")
    found, left_out = read(folder)
    assert {name: recipe.title for name, recipe in found.items()} == {"cold/ICE.MD": "Ice", "soup.md": "Leek *soup*"}
    assert left_out == []
    (folder / "about.md").write_text("# About\n")
    (folder / "latin.md").write_bytes(b"# Caf\xe9\n")
    found, left_out = read(folder)
    assert len(found) == 2
    assert [why.split()[0].split("/")[-1] for why in left_out] == ["about.md", "latin.md"]
    assert read(folder / "soup.md")[0].keys() == {"soup.md"}
    refused(lambda: read(folder / "about.md"), "about.md has no steps")
    for path in (folder / "soup.md", folder / "cold/ICE.MD"):
        path.unlink()
    refused(lambda: read(folder), "holds no recipe", "about.md has no steps")
    refused(lambda: read(folder / "cold"), "holds no recipe", "it has no Markdown file")
    refused(lambda: read(tmp_path / "none"), "There is no")


def test_what_reads_markdown_may_be_missing(recipe_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("markdown_it", "yaml"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            refused(lambda: read(recipe_folder), f"{module} is not installed", "pip install 'seqapp[text]'")


def test_what_is_written_is_read_again() -> None:
    for recipe in (
        of(SOUP.replace("*soup*", "soup"), "soup.md"),
        Recipe("", (), (("Eat.",),)),
        Recipe("A", ("b", "c"), (("d", "e"), ("f",))),
    ):
        assert of(written(recipe), "written") == recipe
