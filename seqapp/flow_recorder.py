"""How far back gradients reach while a model learns, for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np

from seqapp.config import Config
from seqapp.diagnosis import LAGS, Diagnosis
from seqapp.gradient_flow import GradientFlow
from seqapp.records import write_scalars


class FlowRecorder(keras.callbacks.Callback):
    """Writes what `seqapp.diagnose` would say, after each call of `fit`, into a folder of TensorBoard's."""

    def __init__(self, study: Any, config: Config, logs: Path) -> None:
        super().__init__()
        self.flow, self.config, self.logs = GradientFlow(study), config, logs

    def on_train_end(self, logs: Any = None) -> None:
        # On several devices it is a variable of each of them, which `int` does not take.
        step = int(np.asarray(self.model.optimizer.iterations))
        diagnosis = Diagnosis(self.flow.measure(), self.config)
        scalars = [("gradient/horizon", float(diagnosis.horizon))]
        scalars += [(f"gradient/{lag} back", diagnosis.gradient[lag - 1]) for lag in LAGS if lag <= diagnosis.timesteps]
        for name, flow in diagnosis.flows.items():
            scalars += [(f"{quantity}/{name}", getattr(flow, quantity)) for quantity in ("radius", "dead", "saturated")]
        write_scalars(self.logs, step, "flow", [(tag, value, step) for tag, value in scalars])
