"""Where a model is trained: on one device, on several of one machine, or on those of several machines.

Each device is given every batch whole and learns from rows of its own: the first device from the first ones, and so on. The
gradients are added up over all devices before they are clipped, so that a training comes to what it comes to on one device.
"""

from __future__ import annotations

import importlib
import io
import itertools
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import numpy as np

from seqapp import backend
from seqapp.errors import UsageError
from seqapp.machines import Machines, joined, lost_peers


class Devices:
    """One device: nothing is shared, and everything is as Keras does it."""

    count = 1
    chief = True
    several = False  # machines

    def scope(self) -> AbstractContextManager[Any]:
        """Where variables are made."""
        return nullcontext()

    def take(self, learner: Any, at_once: int) -> None:
        """Has the `fit` of a compiled model train on these devices, so many batches in a call of its callbacks."""

    def of_chief(self, content: Callable[[], bytes]) -> bytes:
        """What the chief has made of something; the other machines wait for it."""
        return content()

    def number_of_chief(self, number: Callable[[], float]) -> float:
        """A number that only the chief works out."""
        return float(struct.unpack("d", self.of_chief(lambda: struct.pack("d", number())))[0])

    def wait(self) -> None:
        """Ends when all machines have come here."""

    def peers(self) -> AbstractContextManager[Any]:
        """Where the loss of another machine is told.

        Raises:
            PeerLost: it is lost.
        """
        return nullcontext()

    def check(self, learner: Any, batch_size: int) -> None:
        """Refuses batches that cannot be divided among the devices.

        Raises:
            UsageError: they cannot.
        """
        rows = getattr(learner, "rows", batch_size)
        if rows % self.count:
            raise UsageError(
                f"A batch has {rows} rows, which cannot be divided among {self.count} devices: give a --batch-size that is a "
                f"multiple of {self.count}, and text enough to fill it. Received: --batch-size {batch_size}"
            )


class Mirrored(Devices):
    """Several devices, with all variables on each of them, by a strategy of TensorFlow's."""

    def __init__(self, strategy: Any, machines: Machines) -> None:
        self.strategy, self.machines = strategy, machines
        self.count, self.chief, self.several = strategy.num_replicas_in_sync, machines.chief, machines.several

    def scope(self) -> AbstractContextManager[Any]:
        return self.strategy.scope()

    def take(self, learner: Any, at_once: int) -> None:
        import tensorflow as tf

        # Keras's own way to divide batches fails where there are several machines (keras#20585).
        learner._distribute_strategy = None
        add_up_first(learner.optimizer)
        mean, reduction = learner._loss_tracker, getattr(learner.loss, "reduction", "")

        def on_one_device(batch: Any) -> Any:
            x, y, weights, part = own_part(batch, reduction)
            with tf.GradientTape() as tape:
                outputs = learner(x, training=True)
                # Keras divides a loss by the number of devices already, as if all of them counted alike.
                loss = part * learner.compute_loss(x=x, y=y, y_pred=outputs, sample_weight=weights, training=True)
            variables = learner.trainable_weights
            learner.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            return loss

        @tf.function(reduce_retracing=True, autograph=False)  # type: ignore[untyped-decorator]
        def step(batch: Any) -> Any:
            loss = self.strategy.reduce("SUM", self.strategy.run(on_one_device, args=(batch,)), axis=None)
            mean.update_state(loss, sample_weight=tf.shape(tf.nest.flatten(batch)[0])[0])
            return {"loss": mean.result()}

        def some_steps(batches: Iterator[Any]) -> Any:
            logs = None
            for batch in itertools.islice(batches, at_once):
                logs = step(batch)
            if logs is None:
                raise StopIteration
            return logs

        learner.train_function = some_steps

    def of_chief(self, content: Callable[[], bytes]) -> bytes:
        if not self.several:
            return content()
        mine = content() if self.chief else b""
        (length,) = self._of_chief(np.array([len(mine)]), 1)
        words = np.frombuffer(mine + bytes(-len(mine) % 4), np.int32)
        return bytes(self._of_chief(words, -(-int(length) // 4)).tobytes()[: int(length)])

    def _of_chief(self, words: Any, size: int) -> Any:
        """The chief's whole numbers (size,): what its first device has, and zeros of all others, added up."""
        import tensorflow as tf

        given = tf.constant(words if self.chief else np.zeros(size), tf.int32)

        def add_up(numbers: Any) -> Any:
            context = tf.distribute.get_replica_context()
            first = tf.cast(tf.equal(context.replica_id_in_sync_group, 0), tf.int32)
            return context.all_reduce(tf.distribute.ReduceOp.SUM, numbers * first)

        return np.asarray(self.strategy.experimental_local_results(self.strategy.run(add_up, args=(given,)))[0])

    def wait(self) -> None:
        self.of_chief(lambda: b"end")

    def peers(self) -> AbstractContextManager[Any]:
        return lost_peers() if self.several else nullcontext()


def own_part(batch: Any, reduction: str) -> tuple[Any, Any, Any, Any]:
    """Within a step on one of several devices: its rows of inputs, targets and weights, and how much its mean loss counts,
    where 1 is as much as that of each other.
    """
    import keras
    import tensorflow as tf

    x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
    own = tf.nest.map_structure(lambda part: None if part is None else own_rows(part), (x, y, weights))
    rows = tf.shape(tf.nest.flatten(batch)[0])[0]
    first, end = _bounds(rows)
    if reduction == "sum":  # which Keras does not divide
        return (*own, 1.0)
    if reduction == "mean_with_sample_weight" and weights is not None:
        part = tf.math.divide_no_nan(tf.reduce_sum(weights[first:end]), tf.reduce_sum(weights))
    else:
        part = tf.cast(end - first, tf.float32) / tf.cast(rows, tf.float32)
    return (*own, part * _devices_in_step())


def own_rows(x: Any) -> Any:
    """Within a step on one of several devices, the rows (B / devices, ...) of (B, ...) that are its own; elsewhere all."""
    count = _devices_in_step()
    if count == 1:
        return x
    import tensorflow as tf

    size = x.shape[0]
    if size is not None and size % count == 0:
        first = _number() * (size // count)
        return tf.ensure_shape(x[first : first + size // count], [size // count, *x.shape[1:]])
    first, end = _bounds(tf.shape(x)[0])
    # A device that no row is left for takes one, which then does not count.
    first = tf.minimum(first, tf.shape(x)[0] - 1)
    return x[first : tf.maximum(end, first + 1)]


def all_rows(x: Any) -> Any:
    """Within a step on one of several devices, the rows of all: the reverse of `own_rows`."""
    return x if _devices_in_step() == 1 else _tensorflow().distribute.get_replica_context().all_gather(x, axis=0)


def _bounds(rows: Any) -> tuple[Any, Any]:
    """Where the rows of this device begin and end."""
    return rows * _number() // _devices_in_step(), rows * (_number() + 1) // _devices_in_step()


def _number() -> Any:
    return _tensorflow().distribute.get_replica_context().replica_id_in_sync_group


def _devices_in_step() -> int:
    """1 outside of a step that several devices make."""
    if backend.engine() != "tensorflow":
        return 1
    context = _tensorflow().distribute.get_replica_context()
    return int(context.num_replicas_in_sync) if context else 1


def _tensorflow() -> Any:
    return importlib.import_module("tensorflow")


def add_up_first(optimizer: Any) -> None:
    """Has a Keras optimizer add up the gradients of all devices before it clips them; it would do so after."""
    clip = optimizer._clip_gradients

    def clipped(gradients: list[Any]) -> Any:
        tf = _tensorflow()
        return clip(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients))

    optimizer._clip_gradients = clipped
    optimizer._all_reduce_sum_gradients = list


def begin(count: int | None, machines: Machines) -> Devices:
    """The devices to train on: as many as `count` of each machine; without it, all GPUs where there are several machines.

    Raises:
        UsageError: there are not so many, or Keras's engine is another than TensorFlow.
        PeerLost: not all machines came in time.
    """
    if not machines.several and (count or 1) == 1:
        return Devices()
    if backend.engine() != "tensorflow":
        asked = "TF_CONFIG" if machines.several else "--devices"
        raise UsageError(
            f"{asked} is for Keras on TensorFlow: leave KERAS_BACKEND out, or train on one device. "
            f"Received: KERAS_BACKEND={backend.engine()}"
        )
    tf = _tensorflow()
    gpus = tf.config.list_physical_devices("GPU")
    if machines.several:
        _check_count(count, len(gpus) or 1)
        if gpus and count:
            tf.config.set_visible_devices(gpus[:count], "GPU")
        return Mirrored(joined(machines), machines)
    names = [device.name for device in tf.config.list_logical_devices("GPU" if gpus else "CPU")]
    _check_count(count, len(names))
    return Mirrored(_mirrored(*names[:count]), machines)


@cache
def _mirrored(*names: str) -> Any:
    """One strategy for all trainings of a process: two would give the same number to different sums."""
    return _tensorflow().distribute.MirroredStrategy(list(names))


def _check_count(count: int | None, found: int) -> None:
    if count and count > found:
        are = "is 1 device" if found == 1 else f"are {found} devices"
        raise UsageError(f"There {are} on this machine: give --devices no more than that. Received: --devices {count}")


def packed(arrays: list[Any]) -> bytes:
    """Arrays as bytes, which `unpacked` reads."""
    file = io.BytesIO()
    np.savez(file, *arrays)
    return file.getvalue()


def unpacked(content: bytes) -> list[Any]:
    """The arrays of an `.npz` file, in the order they were written in."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return list(arrays.values())
