"""Linear recurrences over time, many timesteps at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from keras import ops

from seqapp import backend

Tensor = Any
Number = Sequence[Any]  # a tensor of real numbers; or two, the real and the imaginary parts


def linear_recurrence(a: Number, b: Number, state: Number) -> list[Tensor]:
    """S_t = A_t ⊙ S_{t-1} + B_t for all t: a (B, T, U) or (1, 1, U), b (B, T, U), state S_0 (B, U) -> (B, T, U).

    T must be known. Under JAX, XLA makes the most of `keras.ops.associative_scan`, which takes 2·log₂ T operations in a row.
    TensorFlow does not: it cuts and weaves copies at each level. There the sequence is cut into about √T blocks: first all of
    them run side by side from a zero state, then the states at their ends are passed on, then each block adds what its first
    state has become. That is 2·√T operations in a row, each on much at once, in a seventh of the time.
    """
    return in_blocks(a, b, state) if backend.engine() == "tensorflow" else associatively(a, b, state)


def associatively(a: Number, b: Number, state: Number) -> list[Tensor]:
    """See `linear_recurrence`: by `keras.ops.associative_scan`."""
    first = advanced([part[:, 0] for part in a], state, [part[:, 0] for part in b])
    b = [ops.concatenate([one[:, None], part[:, 1:]], axis=1) for one, part in zip(first, b, strict=True)]
    a = [ops.broadcast_to(part, ops.shape(b[0])) for part in a]

    def combined(one: Sequence[Tensor], other: Sequence[Tensor]) -> list[Tensor]:
        """Steps one after the other, as one step."""
        (a_one, b_one), (a_other, b_other) = _halves(one), _halves(other)
        return [*times(a_other, a_one), *advanced(a_other, b_one, b_other)]

    return list(_halves(ops.associative_scan(combined, [*a, *b], axis=1))[1])


def in_blocks(a: Number, b: Number, state: Number) -> list[Tensor]:
    """See `linear_recurrence`: by blocks of about √T timesteps."""
    timesteps, size = b[0].shape[1], block_size(b[0].shape[1])
    blocks = math.ceil(timesteps / size)
    factors, added = (_cut(part, blocks, size) for part in (a, b))
    sums, products = [added[0]], [factors[0]]
    for now, then in zip(factors[1:], added[1:], strict=True):
        sums.append(advanced(now, sums[-1], then))
        products.append(times(now, products[-1]))
    first = _firsts(products[-1], sums[-1], state, blocks)
    outputs = [advanced(product, first, total) for product, total in zip(products, sums, strict=True)]
    whole = [ops.stack([output[i] for output in outputs], axis=2) for i in range(len(b))]
    return [ops.reshape(part, (-1, blocks * size, part.shape[-1]))[:, :timesteps] for part in whole]


def block_size(timesteps: int) -> int:
    """Timesteps in a block: the divisor nearest to the root, where there is one within a factor of two."""
    root = math.sqrt(timesteps)
    near = [size for size in range(1, timesteps + 1) if timesteps % size == 0 and root / 2 <= size <= root * 2]
    return min(near, key=lambda size: abs(math.log(size / root)), default=math.ceil(root))


def times(a: Number, b: Number) -> list[Tensor]:
    """The product, number by number, of real or of complex ones."""
    if len(a) == 1:
        return [a[0] * b[0]]
    return [a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]]


def advanced(a: Number, state: Number, b: Number) -> list[Tensor]:
    """A ⊙ S + B."""
    return [product + added for product, added in zip(times(a, state), b, strict=True)]


def _halves(parts: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    return parts[: len(parts) // 2], parts[len(parts) // 2 :]


def _cut(parts: Number, blocks: int, size: int) -> list[list[Tensor]]:
    """(B, T, U) -> for each timestep of a block, that of all blocks, (B, blocks, U); a constant is that of every timestep."""
    if parts[0].shape[1] == 1:
        return [list(parts)] * size
    missing = blocks * size - parts[0].shape[1]
    padded = [ops.pad(part, ((0, 0), (0, missing), (0, 0))) if missing else part for part in parts]
    shaped = [ops.reshape(part, (-1, blocks, size, part.shape[-1])) for part in padded]
    return [list(now) for now in zip(*(ops.unstack(part, axis=2) for part in shaped), strict=True)]


def _firsts(products: Number, sums: Number, state: Number, blocks: int) -> list[Tensor]:
    """The states that the blocks begin with, (B, blocks, U)."""
    firsts = [list(state)]
    for i in range(blocks - 1):
        # The product of a constant is the same for each block.
        factor = [part[:, min(i, part.shape[1] - 1)] for part in products]
        firsts.append(advanced(factor, firsts[-1], [part[:, i] for part in sums]))
    return [ops.stack([first[i] for first in firsts], axis=1) for i in range(len(state))]
