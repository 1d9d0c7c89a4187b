"""The default data of `classify`: sentences of conversations in many languages."""

from __future__ import annotations

from pathlib import Path

from seqapp.errors import need
from seqapp.labelled import Example


def sentences() -> list[Example]:
    """The sentences of the chatterbot-corpus package (BSD), each with its language, and none twice in a language."""
    yaml, package = need("yaml", "classify"), need("chatterbot_corpus", "classify")
    found: dict[tuple[str, str], None] = {}
    for path in sorted((Path(str(package.__file__)).parent / "data").glob("*/*.yml")):
        for conversation in yaml.safe_load(path.read_text("utf-8")).get("conversations") or []:
            found.update({(path.parent.name, " ".join(str(text).split())): None for text in conversation})
    return [Example(text, language, language) for language, text in found if text]
