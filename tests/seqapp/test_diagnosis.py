"""What a gradient flow means, in a verdict, remedies, a table and a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqapp.config import build
from seqapp.diagnosis import Diagnosis
from seqapp.gradient_flow import Flow

T = 100
GATES, HOLD, ATTEND = "--cell gru --memory 100", "--activation relu --initialization identity", "--attention"


def fading(rate: float, timesteps: int = T) -> Any:
    return 3 * rate ** np.arange(timesteps)


def diagnosis(gradient: Any, later: Any = None, dead: float = 0.0, saturated: float = 0.0, **settings: Any) -> Diagnosis:
    practised = None if later is None else {"layer 1": Flow(later, 0.9, 0, 0)}
    return Diagnosis({"layer 1": Flow(gradient, 0.9, dead, saturated)}, build({"task": "adding", **settings}), practised)


@pytest.mark.parametrize(
    ("rate", "later", "verdict", "horizons", "learns"),
    [
        (0.9, None, "short", (44, None), None),
        (0.99, None, "reaches", (T, None), True),
        (1.06, None, "explodes", (T, None), False),
        (0.5, 0.6, "vanishes", (7, 10), False),
        (0.5, 0.81, "grows", (7, 22), True),
        (0.5, 0.99, "reaches", (7, T), True),
        (0.99, 0.99, "reaches", (T, T), True),
        (0.99, 0.9, "vanishes", (T, 44), False),
        (0.9, 1.06, "explodes", (44, T), False),
        (1.06, 0.9, "explodes", (T, 44), False),
    ],
)
def test_verdict(rate: float, later: float | None, verdict: str, horizons: Any, learns: bool | None) -> None:
    found = diagnosis(fading(rate), None if later is None else fading(later))
    assert (found.verdict, (found.horizon, found.later_horizon), found.learns) == (verdict, horizons, learns)
    assert found.timesteps == T
    assert found.explanation.startswith("The gradient " + ("is faint beyond 44" if verdict == "short" else verdict))
    assert bool(list(found.remedies())) == (verdict != "reaches")


def test_what_is_not_a_number_explodes() -> None:
    assert diagnosis(np.r_[1.0, np.inf]).verdict == "explodes"
    assert diagnosis(np.r_[1.0, np.nan]).verdict == "explodes"


def test_json_has_no_infinity() -> None:
    flow = Flow(np.array([1.0, np.inf, np.nan]), np.inf, 0, 0)
    found = json.loads(json.dumps(Diagnosis({"layer 1": flow}, build({"task": "adding"})).as_json(), allow_nan=False))
    assert found["gradient"] == found["layers"]["layer 1"]["gradient"] == [1, None, None]
    assert (found["verdict"], found["layers"]["layer 1"]["radius"]) == ("explodes", None)


def test_without_a_gradient_there_is_no_horizon() -> None:
    found = diagnosis(np.zeros(T), np.zeros(T))
    assert (found.verdict, found.horizon, found.later_horizon) == ("vanishes", 0, 0)


def test_layers_count_together() -> None:
    one, other = np.array([3.0, 0.0, 0.0]), np.array([4.0, 5.0, 0.5, 0.05])
    flows = {"layer 1": Flow(one, 0.5, 0, 0), "layer 2": Flow(other, 0.5, 0, 0)}
    found = Diagnosis(flows, build({"task": "adding"}))
    np.testing.assert_allclose(found.gradient, [1, 1, 0.1, 0.01])
    assert found.horizon == 4


@pytest.mark.parametrize(
    ("settings", "rate", "later", "remedies"),
    [
        ({"cell": "plain"}, 0.5, 0.5, [GATES, HOLD, ATTEND]),
        ({"cell": "lstm"}, 0.5, 0.5, ["--memory 100", ATTEND]),
        ({"cell": "lstm"}, 0.5, None, ["--memory 100", ATTEND]),
        ({"cell": "gru"}, 0.5, 0.9, ["--memory 100", ATTEND]),
        ({"cell": "gru", "attention": True}, 0.5, 0.9, ["--memory 100"]),
        ({"cell": "gru", "memory": 100}, 0.5, 0.5, [ATTEND]),
        ({"cell": "attention"}, 0.5, 0.5, []),
        ({"task": "next-word", "cell": "gru"}, 0.5, None, ["--memory 100"]),
        ({"task": "translate", "cell": "gru"}, 0.5, None, ["--memory 100"]),
        ({"cell": "plain", "activation": "relu", "initialization": "identity"}, 0.5, 0.5, [GATES, ATTEND]),
        ({"task": "next-word", "bptt": 200}, 0.999, None, []),
        ({"cell": "mine:Cell"}, 0.5, 0.5, [GATES, ATTEND]),
        (
            {"cell": "plain", "clip_norm": 2.0, "initialization": "identity", "learning_rate": 0.01},
            2.0,
            None,
            ["--learning-rate 0.0025", "--clip-norm 0.2", "--initialization orthogonal"],
        ),
        ({"task": "next-word"}, 0.999, None, ["--bptt 200"]),
    ],
)
def test_remedies_are_flags(settings: Any, rate: float, later: float | None, remedies: list[str]) -> None:
    found = list(diagnosis(fading(rate), None if later is None else fading(later), **settings).remedies())
    assert [remedy.split(":")[0][: len(flags)] for remedy, flags in zip(found, remedies, strict=True)] == remedies


def test_a_plain_cell_is_advised_to_hold_only_what_it_was_seen_to_hold() -> None:
    gates, attend = diagnosis(fading(0.5, 600), fading(0.5, 600), cell="plain").remedies()
    assert gates.startswith("--cell gru --memory 600: ")
    assert attend.startswith(f"{ATTEND}: ")


def test_idle_units_have_a_remedy() -> None:
    dead, saturated = diagnosis(fading(1.0), dead=0.3, saturated=0.5, learning_rate=0.01).remedies()
    assert dead.startswith("--learning-rate 0.0025: 30% of layer 1's units are dead")
    assert saturated.startswith("--weight-decay 0.01: 50% of layer 1's units are saturated")
    assert not list(diagnosis(fading(1.0), dead=0.05, saturated=0.05).remedies())


def test_table() -> None:
    head, layer, _, lags, before, after, _, words, *remedies = (
        diagnosis(fading(0.9), fading(0.5), cell="plain").table().splitlines()
    )
    assert head.split() == ["spectral", "radius", "dead", "units", "saturated"]
    assert layer.split() == ["layer", "1", "0.900", "0%", "0%"]
    assert lags.split() == ["timesteps", "back", "1", "2", "5", "10", "20", "50", "100"]
    assert before.split() == ["gradient", "1", "0.9", "0.66", "0.39", "0.14", "0.0057", "3e-05"]
    assert after.split()[:5] == ["after", "practice", "1", "0.5", "0.062"]
    assert words.startswith(
        "The gradient vanishes: it is faint beyond 44 of 100 timesteps, and after a short practice beyond 7."
    )
    assert [remedy.split()[0] for remedy in remedies] == ["--cell", "--activation", "--attention:"]


def test_json_has_all_figures() -> None:
    it = diagnosis(fading(0.5), fading(0.9), cell="gru")
    found = json.loads(json.dumps(it.as_json()))
    names = ("verdict", "learns", "horizon", "later_horizon", "timesteps")
    assert [found[name] for name in names] == ["grows", True, 7, 44, T]
    assert found["remedies"] == list(it.remedies())
    np.testing.assert_allclose(found["gradient"], fading(0.5) / 3)
    assert found["layers"]["layer 1"] == {"gradient": fading(0.5).tolist(), "radius": 0.9, "dead": 0.0, "saturated": 0.0}


@pytest.mark.parametrize("rate", [0.5, 1.0, 1.2, np.inf])
def test_picture(rate: float, tmp_path: Path) -> None:
    flows = {name: Flow(fading(rate, length), rate, 0, 0) for name, length in (("layer 1", T), ("decoder 1", 20))}
    Diagnosis(flows, build({})).draw(tmp_path / "it.png")
    assert (tmp_path / "it.png").read_bytes().startswith(b"\x89PNG")
