"""Text that is made of turns or steps: documents with symbols where these begin.

A conversation is `<conversation><turn>hello\\nhow are you?\\n<turn>fine\\n`: a turn is one speaker's messages, a line each.
A recipe is `<recipe>title\\n<ingredients>salt\\n<step>Boil it.\\n<step>Eat it.\\n`. The first symbol of a form begins a
document, the last one each of its turns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from seqapp import conversations, corpus, recipes
from seqapp.config import Config
from seqapp.corpus import Split, Text
from seqapp.errors import UsageError
from seqapp.vocabulary import plain

SYMBOLS = {"text": (), "conversation": ("<conversation>", "<turn>"), "recipe": ("<recipe>", "<ingredients>", "<step>")}


def load(config: Config, unit: str) -> Split:
    """The split corpus that a configuration names, in its form.

    Conversations go where the hash of their words puts them, recipes where that of their file's name does, as in running text.

    Raises:
        UsageError: the data cannot be read, or a part would be empty.
    """
    d, form = config.data, config.text.form
    if form == "text":
        return corpus.load(d, whole_lines=unit == "word")
    split = corpus.split_by_hash(documents(form, d.data)[0], d.validation_fraction, d.test_fraction)
    return corpus.complete(split, d, f"Give more {form}s,")


def documents(form: str, data: str | None) -> tuple[Sequence[tuple[str, Text]], list[str]]:
    """The documents of a file or folder, each as a key and its text with symbols, and why some files were left out.

    Raises:
        UsageError: they cannot be read, there is none, or there are no default data of the form.
    """
    if form == "recipe":
        if data is None:
            raise UsageError("There are no default recipes: give a folder of Markdown files with --data.")
        found, left_out = recipes.read(Path(data))
        return [(name, of_recipe(recipe)) for name, recipe in found.items()], left_out
    if form == "conversation":
        talks = corpus.turns() if data is None else conversations.read(Path(data))
        return [("".join(f"{line}\n" for turn in talk for line in turn), of_turns(talk)) for talk in talks], []
    return list(corpus.files(Path(data or "")).items()), []


def of_turns(talk: Iterable[Iterable[str]]) -> str:
    """A conversation, as the messages of each turn; what is empty is left out."""
    return _document("conversation", ("", ()), *(("<turn>", turn) for turn in talk))


def of_recipe(recipe: recipes.Recipe) -> str:
    title = [recipe.title] if recipe.title else []
    return _document("recipe", ("", title), ("<ingredients>", recipe.ingredients), *(("<step>", step) for step in recipe.steps))


def _document(form: str, *sections: tuple[str, Iterable[str]]) -> str:
    """The symbol of the form, and each section that has a line: its symbol and its lines, with no other symbol in them."""
    begin, *_ = SYMBOLS[form]
    text = begin
    for symbol, lines in sections:
        kept = [plain(" ".join(line.split()), SYMBOLS[form]) for line in lines if line.strip()]
        text += symbol + "".join(f"{line}\n" for line in kept) if kept else ""
    return text


def prompt(form: str, text: str) -> str:
    """What is to go on, as a document that is not at its end.

    It is given as a conversation that the reader takes, as the steps of a recipe, one a line, or by the name of a recipe's
    file.

    Raises:
        UsageError: it cannot be read.
    """
    if form == "conversation":
        *_, talk = conversations.of(text, "--prompt") or [[]]
        return of_turns(talk)
    if text.lower().endswith(recipes.SUFFIX) and "\n" not in text:
        if not Path(text).is_file():
            raise UsageError(f"There is no {text}: name the file of a recipe with --prompt, or give its steps, one a line.")
        return of_recipe(recipes.of(corpus.read_text(Path(text)), text, begun=True))
    return of_recipe(recipes.Recipe("", (), tuple((line,) for line in text.split("\n"))))


def written(form: str, text: str) -> str:
    """A document for people, as its reader takes it: a conversation of A and B, or a recipe in Markdown."""
    pieces = re.split(f"({'|'.join(SYMBOLS[form])})", text)
    sections = [(symbol, lines.strip().split("\n")) for symbol, lines in zip(pieces[1::2], pieces[2::2], strict=True)]
    sections = [(symbol, lines) for symbol, lines in sections if lines != [""]]
    if form == "conversation":
        return conversations.written([lines for _, lines in sections])
    title, ingredients = ([line for s, lines in sections if s == symbol for line in lines] for symbol in SYMBOLS[form][:2])
    steps = tuple(tuple(lines) for symbol, lines in sections if symbol == "<step>")
    return recipes.written(recipes.Recipe(" ".join(title), tuple(ingredients), steps))
