"""Several machines that train together: which they are, how they come together, and what becomes of those that lose one."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from seqapp.errors import PeerLost, UsageError, say

WAIT = 300.0  # seconds for all machines to come
EXAMPLE = '{"cluster": {"worker": ["10.0.0.1:5000", "10.0.0.2:5000"]}, "task": {"type": "worker", "index": 0}}'


@dataclass(frozen=True)
class Machines:
    """The addresses of all machines, the chief's first, and which of them this is."""

    addresses: tuple[str, ...] = ("",)
    number: int = 0
    kind: str = "worker"  # of job that the chief has, by TensorFlow's names

    @property
    def several(self) -> bool:
        return len(self.addresses) > 1

    @property
    def chief(self) -> bool:
        """Whether this machine is the one that writes the run directory and measures."""
        return self.number == 0

    def check(self, time_limit: float | None) -> None:
        """Refuses what several machines cannot agree on.

        Raises:
            UsageError: there is something.
        """
        if self.several and time_limit is not None:
            raise UsageError(
                "--time-limit is for one machine, for the clocks of several differ: say --epochs instead. "
                f"Received: {time_limit:g} seconds, and a TF_CONFIG of {len(self.addresses)} machines"
            )

    @classmethod
    def named(cls, environment: Mapping[str, str]) -> Machines:
        """Those that `TF_CONFIG` names; where it names none, this one.

        Raises:
            UsageError: it cannot be understood.
        """
        text = environment.get("TF_CONFIG", "")
        if not text:
            return cls()
        try:
            content = json.loads(text)
            cluster, task = content.get("cluster", {}), content.get("task", {})
            chiefs, workers = cluster.get("chief", []), cluster.get("worker", [])
            if set(cluster) - {"chief", "worker"} or len(chiefs) > 1:
                raise ValueError("its cluster is of workers, and of one chief at most")
            if not cluster:
                return cls()
            addresses = (*chiefs, *workers)
            if not all(address.rpartition(":")[2].isdigit() for address in addresses):
                raise ValueError("an address is a name, a colon and a port")
            if task["type"] not in cluster or not 0 <= int(task["index"]) < len(cluster[task["type"]]):
                raise ValueError("its task is none of its cluster")
            number = int(task["index"]) + (len(chiefs) if task["type"] == "worker" else 0)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UsageError(
                f"TF_CONFIG cannot be understood ({error}): write it like {EXAMPLE}, or unset it. Received: {text}"
            ) from None
        return cls(addresses, number, "chief" if chiefs else "worker")


def joined(machines: Machines) -> Any:
    """The strategy of several machines, once all of them have come.

    Raises:
        PeerLost: one has not come within `WAIT` seconds.
    """
    wait = WAIT
    import tensorflow as tf
    from tensorflow.compiler.xla.tsl.protobuf.coordination_config_pb2 import CoordinatedJob
    from tensorflow.python.eager import context

    chiefs = int(machines.kind == "chief")
    jobs = [CoordinatedJob(name="chief", num_tasks=1)] if chiefs else []
    jobs += [CoordinatedJob(name="worker", num_tasks=len(machines.addresses) - chiefs)]
    # TensorFlow would let a machine wait for the chief for an hour, and nothing of Python runs meanwhile.
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader=f"/job:{machines.kind}/replica:0/task:0",
        cluster_register_timeout_in_ms=int(wait * 1000),
        coordinated_jobs=jobs,
    )
    say(f"machine {machines.number + 1} of {len(machines.addresses)}: waiting for the others")
    if machines.chief:
        _await(machines.addresses[1:], wait)
    # The chief would wait without end for one that is lost just now: then the system ends it, to be started again.
    signal.setitimer(signal.ITIMER_REAL, wait + 60)
    try:
        with lost_peers():
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if threading.current_thread() is threading.main_thread():  # others may not: Ray trains in one of its own
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which TensorFlow would only take note of
    return strategy


def _await(addresses: tuple[str, ...], wait: float) -> None:
    """Waits until each address answers.

    Raises:
        PeerLost: one does not within so many seconds.
    """
    end = time.monotonic() + wait
    for address in addresses:
        name, _, port = address.rpartition(":")
        while True:
            try:
                socket.create_connection((name.strip("[]"), int(port)), timeout=2).close()
                break
            except OSError as error:
                if time.monotonic() > end:
                    raise PeerLost(
                        f"{address} of TF_CONFIG did not answer within {wait:g} seconds ({error.strerror or error}): start "
                        "it, and mend its address if that is wrong, then start this machine again."
                    ) from None
            time.sleep(0.2)


@contextmanager
def lost_peers() -> Iterator[None]:
    """Where what TensorFlow raises when another machine no longer answers becomes one line."""
    from tensorflow import errors

    kinds = (errors.UnavailableError, errors.AbortedError, errors.DeadlineExceededError, errors.CancelledError)
    try:
        yield
    except kinds as error:
        raise PeerLost(
            f"Another machine of TF_CONFIG was lost ({type(error).__name__}): start all of them again, the chief with "
            "--start-or-resume or --resume."
        ) from None


def end(status: int) -> int:
    """The exit status; where a machine was lost, ends the process with it: TensorFlow would wait for that machine."""
    if status == PeerLost.status:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status
