"""Recurrent layers in ONNX: a native operator where there is one, else a Scan around the cell's own step.

Tensors are (T, B, ...).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
from onnx import TensorProto, helper

from export.onnx_cells import Array, Gates, Native, native
from export.onnx_nodes import OPSET, Graph
from export.onnx_translation import translate
from export.spec import SEQUENCE_LENGTHS
from export.stages import Both, Recurrent
from seqapp.cell import by_halves, is_residual

Carried = list[tuple[str, str]]  # the names of each state (B, U), before the first timestep and after the last
OF_ACTIVATIONS = ("activations", "activation_alpha", "activation_beta")  # attributes that list something for each direction


def ahead(graph: Graph, stage: Recurrent, name: str, x: str, width: int, carried: Carried | None, to_ends: bool = False) -> str:
    """x (T, B, F) -> (T, B, U), from the states that are carried in, or else from the first ones.

    With `to_ends`, the states that are carried out are those where each sequence ends.
    """
    form = native(stage.cell)
    if form is None:
        y = _scan(graph, stage, name, x, width, carried, to_ends and carried is not None)
    else:
        y = graph.add("Squeeze", [_native(graph, [stage], [form], name, x, carried, to_ends), graph.integers(1)])
    return graph.add("Add", [x, y]) if is_residual(stage.cell) else y


def both(graph: Graph, stage: Both, name: str, x: str, width: int, last_only: bool) -> str:
    """x (T, B, F) -> (T, B, U), or (1, B, U) where each direction ends."""
    forms = [native(part.cell) for part in (*stage.ahead, *stage.back)]
    residual = any(is_residual(part.cell) for part in (*stage.ahead, *stage.back))
    if (one := _as_one(forms)) and not residual:
        y = _native(graph, [*stage.ahead, *stage.back], one, name, x, None)
        onward, back = (_direction(graph, y, number) for number in (0, 1))
    else:
        onward = _along(graph, stage.ahead, f"{name}_ahead", x, width)
        back = reversed_in_time(graph, _along(graph, stage.back, f"{name}_back", reversed_in_time(graph, x), width))
    if last_only:
        onward, back = last(graph, onward), first(graph, back)
    if stage.merge == "concat":
        return graph.add("Concat", [onward, back], axis=2)
    merged = graph.add("Mul" if stage.merge == "mul" else "Add", [onward, back])
    return graph.add("Mul", [merged, graph.constant(np.float32(0.5))]) if stage.merge == "ave" else merged


def _direction(graph: Graph, y: str, number: int) -> str:
    """y (T, directions, B, U) -> (T, B, U)."""
    return graph.add("Squeeze", [graph.add("Gather", [y, graph.integers(number)], axis=1), graph.integers(1)])


def last(graph: Graph, x: str) -> str:
    """x (T, B, U) -> (1, B, U) at the last timestep of each sequence."""
    return first(graph, reversed_in_time(graph, x))


def reversed_in_time(graph: Graph, x: str) -> str:
    """x (T, B, ...) with the timesteps of each sequence in reverse, up to its length."""
    lengths = graph.add("Cast", [SEQUENCE_LENGTHS], to=TensorProto.INT64)
    return graph.add("ReverseSequence", [x, lengths], time_axis=0, batch_axis=1)


def first(graph: Graph, x: str) -> str:
    """x (T, B, U) -> (1, B, U) at the first timestep."""
    return graph.add("Gather", [x, graph.integers(0)], axis=0)


def _along(graph: Graph, stages: Sequence[Recurrent], name: str, x: str, width: int) -> str:
    for number, stage in enumerate(stages):
        x, width = ahead(graph, stage, f"{name}_{number}", x, width, None), stage.width
    return x


def _as_one(forms: list[Native | None]) -> list[Native] | None:
    """The forms of two directions, if one operator can hold both."""
    if len(forms) != 2:
        return None
    one, other = forms
    if one is None or other is None or one.operator != other.operator:
        return None
    shared = [{key: value for key, value in f.attributes.items() if key not in OF_ACTIVATIONS} for f in (one, other)]
    alike = one.attributes.keys() == other.attributes.keys() and shared[0] == shared[1] and _units(one) == _units(other)
    return [one, other] if alike else None


def _units(form: Native) -> int:
    return next(gate.shape[0] for gate in form.r if gate is not None)


def _native(
    graph: Graph,
    stages: list[Recurrent],
    forms: list[Native],
    name: str,
    x: str,
    carried: Carried | None,
    to_ends: bool = True,
) -> str:
    """One operator of one direction or of two, which read up to each sequence's length: (T, B, F) -> (T, directions, B, U)."""
    weights = [
        _joined(graph, [_gates(graph, gates, f"{name}_{kind}") for gates in of_forms])
        for kind, of_forms in (("w", [form.w for form in forms]), ("r", [form.r for form in forms]))
    ]
    lengths, direction = SEQUENCE_LENGTHS if to_ends else "", "bidirectional" if len(forms) == 2 else "forward"
    before, after = _states(graph, stages, name, carried)
    y = f"{name}_outputs"
    inputs = [x, *weights, _biases(graph, forms, f"{name}_b"), lengths, *before]
    attributes = {**_attributes(forms), "hidden_size": _units(forms[0]), "direction": direction}
    graph.nodes.append(helper.make_node(forms[0].operator, inputs, [y, *after], **attributes))
    for made, (_, output) in zip(after, carried or [], strict=True):
        graph.nodes.append(helper.make_node("Squeeze", [made, graph.integers(0)], [output]))
    return y


def _states(graph: Graph, stages: list[Recurrent], name: str, carried: Carried | None) -> tuple[list[str], list[str]]:
    """What a native operator takes (directions, B, U) for each state, nothing for zeros, and what it gives."""
    if carried is not None:
        before = [graph.add("Unsqueeze", [given, graph.integers(0)]) for given, _ in carried]
        return before, [f"{name}_state_{i}" for i in range(len(carried))]
    before = []
    for of_directions in zip(*(_first_states(stage) for stage in stages), strict=True):
        zero = not any(value.any() for value in of_directions)
        made = [] if zero else [graph.add("Unsqueeze", [_repeated(graph, v), graph.integers(0)]) for v in of_directions]
        before.append(_joined(graph, made) if made else "")
    return before, []


def _first_states(stage: Recurrent) -> list[Array]:
    """The states (U,) before the first timestep."""
    return [np.asarray(state, np.float32)[0] for state in stage.initial_states(1)]


def _repeated(graph: Graph, value: Array) -> str:
    """(U,) -> (B, U)."""
    shape = graph.add("Concat", [graph.add("Shape", [SEQUENCE_LENGTHS]), graph.integers(len(value))], axis=0)
    return graph.add("Expand", [graph.constant(value, "initial"), shape])


def _joined(graph: Graph, parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else graph.add("Concat", parts, axis=0)


def _attributes(forms: list[Native]) -> dict[str, Any]:
    """Those of one form, and what they list, for each direction."""
    attributes = dict(forms[0].attributes)
    return attributes | {
        key: [item for form in forms for item in form.attributes[key]] for key in OF_ACTIVATIONS if key in attributes
    }


def _gates(graph: Graph, gates: Gates, name: str) -> str:
    """The kernels (U, F) of all gates as (1, gates·U, F); for None, zeros made when the engine loads the file."""
    parts: list[str] = []
    for none, run in _runs(gates):
        if none:
            shape = [
                len(run) * next(g.shape[0] for g in gates if g is not None),
                next(g.shape[1] for g in gates if g is not None),
            ]
            parts.append(graph.add("ConstantOfShape", [graph.integers(*shape)]))
        else:
            parts.append(graph.weight(np.concatenate(run), name, 0))
    whole = parts[0] if len(parts) == 1 else graph.add("Concat", parts, axis=0)
    return graph.add("Unsqueeze", [whole, graph.integers(0)])


def _biases(graph: Graph, forms: list[Native], name: str) -> str:
    """The biases (directions, 2·gates·U), or no input where all are zero."""
    if all(gate is None for form in forms for gate in form.b):
        return ""
    zeros = np.zeros(_units(forms[0]), np.float32)
    rows = [np.concatenate([zeros if gate is None else gate for gate in form.b]) for form in forms]
    return graph.constant(np.stack(rows), name)


def _scan(graph: Graph, stage: Recurrent, name: str, x: str, width: int, carried: Carried | None, to_ends: bool = False) -> str:
    """A Scan over the timesteps, around the cell's own step; the input half of its product at once, where it is apart."""
    step = stage.step
    if by_halves(stage.cell):
        x, width = graph.inlined(stage.cell.project, x, width, f"{name}_projection")
        step = stage.cell.recur

    def flat(*given: Any) -> list[Any]:
        y, after = step(given[-1], list(given[:-1]))
        return [*tf.nest.flatten(after), y]

    sizes = stage.sizes
    inputs = [*(f"{name}_before_{i}" for i in range(len(sizes))), f"{name}_now"]
    body = translate(flat, inputs, [[None, n] for n in (*sizes, width)], name, OPSET)
    nodes, made, scanned = [graph.with_weights(node, body) for node in body.nodes], list(body.outputs), [x]
    given = [_float(n, (None, size)) for n, size in zip(inputs, (*sizes, width), strict=True)]
    if to_ends:
        # Behind the end of a sequence its states stay as they are.
        going, kept = f"{name}_going", [f"{name}_kept_{i}" for i in range(len(sizes))]
        nodes += [
            helper.make_node("Where", [going, new, old], [result])
            for new, old, result in zip(body.outputs[:-1], inputs[:-1], kept, strict=True)
        ]
        made, scanned = [*kept, body.outputs[-1]], [x, _going(graph, x)]
        given.append(helper.make_tensor_value_info(going, TensorProto.BOOL, (None, 1)))
    inner = helper.make_graph(
        nodes, name, given, [_float(n, (None, size)) for n, size in zip(made, (*sizes, stage.width), strict=True)]
    )
    y = f"{name}_outputs"
    carried = carried or [(_repeated(graph, v), f"{name}_after_{i}") for i, v in enumerate(_first_states(stage))]
    before, after = [name for name, _ in carried], [name for _, name in carried]
    inner_inputs = [*before, *scanned]
    graph.nodes.append(helper.make_node("Scan", inner_inputs, [*after, y], body=inner, num_scan_inputs=len(scanned)))
    return y


def _going(graph: Graph, x: str) -> str:
    """Whether a sequence has not ended yet (T, B, 1), for x (T, B, F)."""
    count = graph.add("Squeeze", [graph.add("Slice", [graph.add("Shape", [x]), graph.integers(0), graph.integers(1)])])
    numbers = graph.add("Range", [graph.scalar(0), count, graph.scalar(1)])
    lengths = graph.add("Cast", [SEQUENCE_LENGTHS], to=TensorProto.INT64)
    return graph.add(
        "Less",
        [graph.add("Unsqueeze", [numbers, graph.integers(1, 2)]), graph.add("Unsqueeze", [lengths, graph.integers(0, 2)])],
    )


def _runs(gates: Gates) -> list[tuple[bool, list[Any]]]:
    """The gates, those in a row that are None or that are not taken together."""
    return [(none, list(run)) for none, run in groupby(gates, lambda gate: gate is None)]


def _float(name: str, shape: tuple[int | None, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
