"""Several machines, as `TF_CONFIG` names them; how they train together is in test_devices."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from seqapp.errors import LOST, PeerLost
from seqapp.machines import Machines, end, lost_peers
from tests.conftest import refused


class TestNamed:
    def test_nothing_is_this_machine_alone(self) -> None:
        for environment in ({}, {"TF_CONFIG": ""}, {"TF_CONFIG": "{}"}):
            machines = Machines.named(environment)
            assert machines.chief and not machines.several

    def test_the_first_worker_is_the_chief_where_none_is_named(self) -> None:
        cluster = {"worker": ["a:1", "b:2"]}
        for index in (0, 1):
            machines = Machines.named(
                {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})}
            )
            assert machines == Machines(("a:1", "b:2"), index, "worker")
            assert machines.chief == (index == 0)

    def test_a_chief_of_its_own_comes_before_the_workers(self) -> None:
        cluster = {"chief": ["c:3"], "worker": ["a:1", "b:2"]}
        machines = Machines.named({"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 1}})})
        assert machines == Machines(("c:3", "a:1", "b:2"), 2, "chief")

    @pytest.mark.parametrize(
        "text",
        [
            "no JSON",
            "[]",
            '{"cluster": {"worker": ["a:1", "b:2"]}}',
            '{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 2}}',
            '{"cluster": {"worker": ["a", "b"]}, "task": {"type": "worker", "index": 0}}',
            '{"cluster": {"ps": ["a:1"], "worker": ["b:2"]}, "task": {"type": "worker", "index": 0}}',
        ],
    )
    def test_what_cannot_be_understood(self, text: str) -> None:
        refused(lambda: Machines.named({"TF_CONFIG": text}), "TF_CONFIG cannot be understood", "write it like", text)


def test_a_lost_machine_is_one_line() -> None:
    from tensorflow import errors

    def lose(error: Callable[..., Exception]) -> None:
        with lost_peers():
            raise error(None, None, "of\nmany\nlines")

    for kind in (errors.UnavailableError, errors.AbortedError):
        with pytest.raises(PeerLost, match=r"^Another machine of TF_CONFIG was lost .*--resume\.$"):
            lose(kind)
    with pytest.raises(errors.InvalidArgumentError):
        lose(errors.InvalidArgumentError)


@pytest.mark.parametrize("status", [0, 1, 2])
def test_a_process_that_lost_no_machine_ends_as_others_do(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr("os._exit", ended.append)
    assert end(status) == status and not ended
    end(LOST)
    assert ended == [LOST]
