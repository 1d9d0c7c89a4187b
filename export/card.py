"""The model card of a bundle: what the model is, how good each file is, and how to run it, its own tensor names filled in."""

from __future__ import annotations

from typing import Any

from export.sequence_snippets import sequence_snippets
from export.snippets import snippets
from export.spec import DECODE_STEP, ENCODE, PREFILL, SEQUENCE, STEP

COMPARED = "Each file was compared with the trained Keras model, in each way it can be run, before it got its name."


def card(content: dict[str, Any]) -> str:
    """README.md of a bundle, from its manifest."""
    parts = [f"# {content['task']}", *_about(content), "## Files", COMPARED, _files(content), _legend(content)]
    if ENCODE in content["signatures"]:
        return "\n\n".join([*parts, *_translation(content)]) + "\n"
    parts += [*_forecast(content), "## How to run it", _contract(content)]
    for language, (_, block, code) in (snippets if STEP in content["signatures"] else sequence_snippets)(content).items():
        parts += [f"### {language}", f"```{block}\n{code}\n```"]
    return "\n\n".join(parts) + "\n"


def _about(content: dict[str, Any]) -> list[str]:
    lines = [content["description"]] if content.get("description") else []
    vocabulary = content.get("vocabulary")
    facts = [f"{content['parameters']:,} parameters"]
    if vocabulary:
        facts.append(f"{vocabulary['size']:,} tokens in `{vocabulary['path']}`, each a {vocabulary['unit']}")
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    return [*lines, f"{'; '.join(facts)}. Made with {versions}."]


def _files(content: dict[str, Any]) -> str:
    names = list(dict.fromkeys(name for file in content["files"] for name in file["metrics"]))
    timed = f"{_timed(content)}, µs a timestep"
    rows = [
        "| " + " | ".join(["file", "precision", "bytes", "needs", "largest difference", "loses", timed, *names]) + " |",
        "|" + "---|" * (7 + len(names)),
    ]
    for file in content["files"]:
        difference = max(entry["largest_difference"] for entry in content["parity"] if entry["file"] == file["path"])
        needs = ", ".join(f"{name} {version}" for name, version in file["minimum_runtime"].items())
        losses = ", ".join(f"{entry['value']:.2%} {name}" for name, entry in file.get("losses", {}).items())
        metrics = [f"{file['metrics'][name]['value']:.4g}" if name in file["metrics"] else "" for name in names]
        cells = [file["path"], file["precision"], f"{file['bytes']:,}", needs, f"{difference:.1e}", losses]
        rows.append(f"| {' | '.join([*cells, _latency(file, _timed(content)), *metrics])} |")
    return "\n".join(rows)


def _timed(content: dict[str, Any]) -> str:
    """The signature whose latency is shown."""
    return next(name for name in (STEP, DECODE_STEP, SEQUENCE) if name in content["signatures"])


def _latency(file: dict[str, Any], signature: str) -> str:
    return f"{file['latency'][signature]['value']:.0f}" if signature in file["latency"] else ""


def _legend(content: dict[str, Any]) -> str:
    if ENCODE in content["signatures"]:
        return (
            "Figures are of held-out pairs, each token of a target told from those before it; *translated_as_keras* is the "
            "share of sources whose translation is that of Keras, by the same search. *Largest difference* is from Keras, in "
            "what a source is encoded to, or in log-probability and attention of a step; *loses* is against Keras on the same "
            "pairs; times are of calls from Python, one thread, on the machine that exported."
        )
    counts = sorted({f"{metric['count']:,}" for file in content["files"] for metric in file["metrics"].values()})
    carried = "timesteps, the state carried through" if STEP in content["signatures"] else "timesteps"
    judged = "labels" if "classes" in content else carried
    of_metrics = f"Figures are over {' or '.join(counts)} held-out {judged}. " if counts else ""
    return (
        f"{of_metrics}*Largest difference* is in log-probability (of other outputs, in the output) from Keras over 1,000 "
        "timesteps; *loses* is against Keras on the same timesteps; times are of calls from Python, one thread, on the machine "
        "that exported."
    )


def _forecast(content: dict[str, Any]) -> list[str]:
    """How series go in and come out of a forecaster."""
    if "forecast" not in content:
        return []
    f = content["forecast"]
    given = "".join([", dates" * f["dated"], ", beside=columns" * bool(f["names"])])
    columns = f" and the columns {', '.join(f['names'])}" if f["names"] else ""
    return [
        "## Forecasts",
        f'```python\nfrom export.runtime import load\n\nquantiles = load("bundle").forecast(values{given})\n```',
        f"{f['horizon']} rows, a timestep each, of the quantiles {', '.join(map(str, f['levels']))}. What goes into the files "
        f"is made of the series{columns} as `forecast` in `manifest.json` and the project's docs/forecast.md say.",
    ]


def _translation(content: dict[str, Any]) -> list[str]:
    """How texts go in and translations come out."""
    t = content["translation"]
    sides = [
        f"A {side} is cut into {t[side]['unit']}s as `{t[side]['path']}` says and closed by `{t[side]['end']!r}`"
        for side in ("source", "target")
    ]
    return [
        "## How to run it",
        '```python\nfrom export.runtime import load_translator\n\nprint(load_translator("bundle").translate("a text"))\n```',
        f"{'. '.join(sides)}; texts are normalized first: {', '.join(t['source']['normalization'])}.",
        f"{_signature(content, ENCODE)} What stands behind a source, up to its length, changes nothing.",
        f"{_signature(content, DECODE_STEP)} Its first states are those that `{ENCODE}` gives, its first token is the end; "
        "hand states and the chosen token to the next call, with the same memory and lengths, until the end is chosen. "
        f"`attention` says where in the source a token came from. In ONNX, each signature is a file of its own. A search keeps "
        f"{t['beam']} hypotheses and divides their log-probability by ((5 + length) / 6)^{t['length_penalty']:g}. "
        "`manifest.json` has every name, shape and checksum.",
    ]


def _contract(content: dict[str, Any]) -> str:
    if STEP not in content["signatures"]:
        return (
            f"{_signature(content, SEQUENCE)} It reads each sequence both ways, up to its length, and carries nothing from "
            "call to call: what stands behind a sequence changes nothing, and output from its length on means nothing. "
            "`manifest.json` has every name, shape and checksum."
        )
    initial = "zeros" if all(s["initial"] == 0 for s in content["states"]) else "what `initial` says of each in `manifest.json`"
    if PREFILL in content["signatures"]:
        whole = "has a `time` axis behind `batch`; `prefill` takes the same and gives the output of the last timestep"
    else:
        whole = (
            "has a `time` axis behind `batch` in what goes in, takes `lengths` int32 [batch] too, and gives one output for "
            "each sequence, at its end, with the states there"
        )
    return (
        f"{_signature(content, STEP)} `sequence` {whole}. States start as {initial}; hand each back to the next call. "
        "`manifest.json` has every name, shape and checksum."
    )


def _signature(content: dict[str, Any], name: str) -> str:
    signature = content["signatures"][name]
    inputs, outputs = (
        ", ".join(f"`{t['name']}` {t['dtype']} [{', '.join(map(str, t['shape']))}]" for t in signature[side])
        for side in ("inputs", "outputs")
    )
    return f"`{name}` takes {inputs}, and gives {outputs}."
