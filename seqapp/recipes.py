"""Recipes in Markdown: a title, a section of ingredients and a section of steps."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqapp.corpus import read_text
from seqapp.errors import UsageError, need
from seqapp.untrusted import words_of

SUFFIX = ".md"
FRONT = re.compile(r"---[ \t]*\n(.*?\n)?---[ \t]*(?:\n|\Z)", re.DOTALL)
# The headings of the sections, by a word in them.
SECTIONS = {"ingredients": r"\bingredients\b", "steps": r"\b(directions|instructions|method|steps|preparation)\b"}
LISTS = ("bullet_list", "ordered_list")


@dataclass(frozen=True)
class Recipe:
    """Lines of text without markup; a step may have several."""

    title: str
    ingredients: tuple[str, ...]
    steps: tuple[tuple[str, ...], ...]


def read(path: Path) -> tuple[dict[str, Recipe], list[str]]:
    """The recipes of the Markdown files under `path`, by their names within it, and why some of these were left out; or the one
    of a file. Hidden files are none.

    Raises:
        UsageError: nothing there, no Markdown file in it, no recipe in any of them, a single file that is none, or a package is
            missing.
    """
    for package in ("markdown_it", "yaml"):
        need(package, "text")
    if not path.exists():
        raise UsageError(f"There is no {path}: give a Markdown file, or a folder of them.")
    if path.is_file():
        return {path.name: of(read_text(path), str(path))}, []
    names = sorted(found.relative_to(path) for found in path.rglob("*") if found.suffix.lower() == SUFFIX and found.is_file())
    found, left_out = {}, []
    for name in (name for name in names if not any(part.startswith(".") for part in name.parts)):
        try:
            found[name.as_posix()] = of(read_text(path / name), str(path / name))
        except UsageError as error:  # one page about the site need not keep a user from all the others
            left_out.append(str(error))
    if not found:
        why = left_out[0] if left_out else "it has no Markdown file"
        raise UsageError(f"The folder {path} holds no recipe: give one with {SUFFIX} files in it. Received: {why}")
    return found, left_out


def of(text: str, name: str, begun: bool = False) -> Recipe:
    """The recipe of a Markdown text, which is called `name` in messages; one that is `begun` needs no steps.

    The title is that of the front matter, or the first heading of the first level. The items of lists and the paragraphs of
    the section Ingredients are ingredients; those of the section Directions, Instructions, Method, Steps or Preparation are
    steps, an item within an item being one more line of its step.

    Raises:
        UsageError: the front matter is no YAML, or there are no steps.
    """
    markdown, tree = need("markdown_it", "text"), need("markdown_it.tree", "text")
    title, front = "", FRONT.match(text)
    if front:
        title, text = _title(front[1] or "", name), text[front.end() :]
    found: dict[str, list[tuple[str, ...]]] = {"": [], **{section: [] for section in SECTIONS}}
    section, level = "", 0
    for node in tree.SyntaxTreeNode(markdown.MarkdownIt("commonmark").parse(text)).children:
        if node.type == "heading":
            heading, depth = " ".join(_lines(node)), int(node.tag[1])
            named = [section for section, pattern in SECTIONS.items() if re.search(pattern, heading, re.IGNORECASE)]
            if named or depth <= level:  # one that is deeper divides its section
                section, level = (named or [""])[0], depth
            if depth == 1 and not named:
                title = title or heading
        elif node.type in LISTS or node.type == "paragraph":
            found[section] += [lines for part in (node.children if node.type in LISTS else [node]) if (lines := _lines(part))]
    if not found["steps"] and not begun:
        raise UsageError(
            f"{name} has no steps: give it a heading Directions, Instructions, Method, Steps or Preparation, and a list below."
        )
    return Recipe(title, tuple(line for lines in found["ingredients"] for line in lines), tuple(found["steps"]))


def _title(front: str, name: str) -> str:
    """That of the front matter, where it has one."""
    yaml = need("yaml", "text")
    try:
        content = yaml.safe_load(front)
    except yaml.YAMLError as error:
        line = error.problem_mark.line + 2 if getattr(error, "problem_mark", None) else 1  # the first is the line of ---
        raise UsageError(f"{name}, line {line}: the front matter is not YAML; put texts with a colon in quotes.") from None
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:  # of a date, say
        raise UsageError(f"{name}: the front matter cannot be read ({words_of(error)}); put its texts in quotes.") from None
    title = content.get("title") if isinstance(content, dict) else None
    # A list may hold itself, or the same list so often that no memory suffices for its words.
    return " ".join(str(title or "").split()) if not isinstance(title, (list, dict, set, tuple)) else ""


def _lines(node: Any) -> tuple[str, ...]:
    """The text of each paragraph in a part of the document, without markup, pictures and HTML."""
    texts = (
        "".join(part.content if part.type in ("text", "code_inline") else " " * part.type.endswith("break") for part in parts)
        for parts in (inner.token.children or [] for inner in node.walk() if inner.type == "inline")
    )
    return tuple(line for text in texts if (line := " ".join(text.split())))


def written(recipe: Recipe) -> str:
    """A recipe in Markdown, as `of` reads it."""
    title = [f"# {recipe.title}"] if recipe.title else []
    ingredients = ["## Ingredients", "\n".join(f"- {line}" for line in recipe.ingredients)] if recipe.ingredients else []
    steps = "\n".join(f"{i}. " + "\n   - ".join(lines) for i, lines in enumerate(recipe.steps, 1))
    return "\n\n".join([*title, *ingredients, *(["## Directions", steps] if steps else [])])
