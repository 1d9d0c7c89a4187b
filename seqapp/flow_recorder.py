"""How far back gradients reach while a model learns, for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from seqapp.config import Config
from seqapp.diagnosis import LAGS, Diagnosis
from seqapp.gradient_flow import GradientFlow


class FlowRecorder(keras.callbacks.Callback):
    """Writes what `seqapp.diagnose` would say, after each call of `fit`, into a folder of TensorBoard's."""

    def __init__(self, study: Any, config: Config, logs: Path) -> None:
        super().__init__()
        self.flow, self.config, self.logs = GradientFlow(study), config, logs

    def on_train_end(self, logs: Any = None) -> None:
        from tensorboard.summary import Writer

        diagnosis = Diagnosis(self.flow.measure(), self.config)
        writer, step = Writer(str(self.logs)), int(self.model.optimizer.iterations)
        writer.add_scalar("gradient/horizon", diagnosis.horizon, step)
        for lag in LAGS:
            if lag <= diagnosis.timesteps:
                writer.add_scalar(f"gradient/{lag} back", diagnosis.gradient[lag - 1], step)
        for name, flow in diagnosis.flows.items():
            for quantity in ("radius", "dead", "saturated"):
                writer.add_scalar(f"{quantity}/{name}", getattr(flow, quantity), step)
        writer.close()
