"""Attention over all past timesteps, one timestep at a time and in constant memory."""

from __future__ import annotations

import keras
from keras import ops

from seqapp.cell import Shape, States, Tensor
from seqapp.linear_cells import LinearCell

STEEPEST = 8.0  # a score at most: e^8 is far more than all else in a thousand timesteps, and its sums are exact enough


@keras.saving.register_keras_serializable(package="seqapp")
class AttentionCell(LinearCell):
    """A single step of attention over what came so far (Zhai et al. 2021, arXiv:2105.14103v2, "AFT-simple", causal).

        [k, v, q] = W·X_t + b
        w = exp(8·tanh(k))
        L_t = log(exp(L_{t-1}) + w)
        C_t = C_{t-1} + w / exp(L_t) ⊙ (v - C_{t-1})
        H_t = σ(q) ⊙ C_t

    C_t is the mean of all v so far, each unit's weighed by its own w, and of a zero of weight 1, exp(L_0): with nothing worth
    attending to it stays near that. Above a recurrent layer, `residual`, it attends to that layer's past outputs (Raffel and
    Ellis 2015, arXiv:1512.08756v5), and a gradient reaches them in one step, however far back. The mean is over everything
    since the first timestep: for streams that never end, it says less and less of what is new.

    Weights, order k, v, q: `kernel` W (F, 3U), `bias` b (3U,).
    Call: inputs X_t (B, F), states [C_{t-1} (B, U), L_{t-1} (B, U)] -> H_t (B, U), [C_t, L_t].

    >>> from keras import ops
    >>> cell = AttentionCell(4)
    >>> h, states = cell(ops.ones((2, 3)), cell.get_initial_state(batch_size=2))
    >>> [tuple(s.shape) for s in states]
    [(2, 4), (2, 4)]
    """

    states_per_cell = 2
    remembers = False

    def build(self, input_shape: Shape) -> None:
        shape = (input_shape[-1], 3 * self.units)
        self.kernel = self.add_weight(shape=shape, initializer="glorot_uniform", name="kernel")
        self.bias = self.add_weight(shape=(3 * self.units,), initializer="zeros", name="bias")
        super().build(input_shape)

    def weighed(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., 3U) -> w, v and σ(q) (..., U)."""
        k, v, q = ops.split(projected, 3, axis=-1)
        return ops.exp(STEEPEST * ops.tanh(k)), v, ops.sigmoid(q)

    def recur(self, projected: Tensor, states: States) -> tuple[Tensor, States]:
        w, v, gate = self.weighed(projected)
        mean, level = states
        total = ops.exp(level) + w
        mean = mean + w / total * (self.masked(v) - mean)
        return gate * mean, [mean, ops.log(total)]

    def scan(self, x: Tensor, states: States, counts: Tensor | None = None) -> tuple[Tensor, States]:
        w, v, gate = self.weighed(self.project(x))
        if self.recurrent_mask is not None:
            v = v * self.recurrent_mask[:, None]
        if counts is not None:
            w = w * counts
        mean, level = (state[:, None] for state in states)
        past = ops.exp(level)
        totals = past + ops.cumsum(w, axis=1)
        means = (past * mean + ops.cumsum(w * v, axis=1)) / totals
        return gate * means, [means[:, -1], ops.log(totals[:, -1])]
