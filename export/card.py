"""The model card of a bundle: what the model is, how good each file is, and how to run it, its own tensor names filled in."""

from __future__ import annotations

from typing import Any

from export.snippets import snippets

COMPARED = "Each file was compared with the trained Keras model, step by step and whole, before it got its name."


def card(content: dict[str, Any]) -> str:
    """README.md of a bundle, from its manifest."""
    parts = [f"# {content['task']}", *_about(content), "## Files", COMPARED, _files(content), _legend(content)]
    parts += ["## How to run it", _contract(content)]
    for language, (_, block, code) in snippets(content).items():
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
    rows = [
        "| " + " | ".join(["file", "precision", "bytes", "needs", "largest difference", "loses", "step, µs", *names]) + " |",
        "|" + "---|" * (7 + len(names)),
    ]
    for file in content["files"]:
        difference = max(entry["largest_difference"] for entry in content["parity"] if entry["file"] == file["path"])
        needs = ", ".join(f"{name} {version}" for name, version in file["minimum_runtime"].items())
        losses = ", ".join(f"{entry['value']:.2%} {name}" for name, entry in file.get("losses", {}).items())
        metrics = [f"{file['metrics'][name]['value']:.4g}" if name in file["metrics"] else "" for name in names]
        cells = [file["path"], file["precision"], f"{file['bytes']:,}", needs, f"{difference:.1e}", losses]
        rows.append(f"| {' | '.join([*cells, _latency(file), *metrics])} |")
    return "\n".join(rows)


def _latency(file: dict[str, Any]) -> str:
    return f"{file['latency']['step']['value']:.0f}" if "step" in file["latency"] else ""


def _legend(content: dict[str, Any]) -> str:
    counts = sorted({f"{metric['count']:,}" for file in content["files"] for metric in file["metrics"].values()})
    of_metrics = f"Figures are over {' or '.join(counts)} held-out timesteps, the state carried through. " if counts else ""
    return (
        f"{of_metrics}*Largest difference* is in log-probability (of other outputs, in the output) from Keras over 1,000 "
        "timesteps; *loses* is against Keras on the same timesteps; a step was timed from Python, one thread, on the machine "
        "that exported."
    )


def _contract(content: dict[str, Any]) -> str:
    step = content["signatures"]["step"]
    shown = {
        side: ", ".join(f"`{t['name']}` {t['dtype']} [{', '.join(map(str, t['shape']))}]" for t in step[side])
        for side in ("inputs", "outputs")
    }
    initial = "zeros" if all(s["initial"] == 0 for s in content["states"]) else "what `initial` says of each in `manifest.json`"
    return (
        f"`step` takes {shown['inputs']}, and gives {shown['outputs']}. `sequence` has a `time` axis behind `batch`; `prefill` "
        f"takes the same and gives the output of the last timestep. States start as {initial}; hand each back to the next "
        "call. `manifest.json` has every name, shape and checksum."
    )
