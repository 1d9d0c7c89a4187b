"""What all reports share: the figures, the baselines beside them, and the strongest of these."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seqapp.report import Report


@dataclass(frozen=True)
class Guesses(Report):
    loss = "error"

    def table(self, name: str) -> str:
        return f"{name} {self.mine['error']['value']}"


def row(error: float, right: float) -> dict[str, dict[str, float]]:
    return {"error": {"value": error}, "right": {"value": right}}


REPORT = Guesses("test", {"validation": row(1, 0.5), "test": row(2, 0.4)}, {"by_chance": row(9, 0.1), "by_rote": row(3, 0.3)})


def test_what_is_kept() -> None:
    assert REPORT.mine == row(2, 0.4)
    assert REPORT.table("gru") == "gru 2"
    assert REPORT.levels == {"by_chance": 9, "by_rote": 3}
    assert REPORT.as_json() == {**REPORT.figures, "baselines": REPORT.baselines}


def test_the_strongest_baseline() -> None:
    assert REPORT.strongest("error") == ("by-rote", 3.0)
    assert REPORT.strongest("right", max) == ("by-rote", 0.3)
    assert REPORT.strongest("error", max) == ("by-chance", 9.0)


def test_most_have_no_picture(tmp_path: Path) -> None:
    REPORT.draw(tmp_path)
    assert not list(tmp_path.iterdir())
