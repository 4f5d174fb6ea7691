"""NequIP's training modules with `response_loss:` beside `long_range:`; `response_section.py` names them in configs."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from math import isnan
from typing import Any

import torch
from hydra.utils import get_method
from nequip.data import AtomicDataDict
from nequip.train import EMALightningModule, NequIPLightningModule, ScheduleFreeLightningModule
from torchmetrics import Metric

from les_plugins.adapters.nequip.response_section import FIELDS, take_section
from les_plugins.errors import ConfigError
from les_plugins.model.outputs import long_range_part
from les_plugins.model.response_config import RESPONSE_SECTION, ResponseLossConfig
from les_plugins.model.response_loss import ResponseLabels, squared_errors
from les_plugins.model.response_prediction import observing

#: Fields of a model's output, (2,): sum of squared errors and number of components that count.
_ERROR = "response_error_{}"


class ResponseLightningModule(NequIPLightningModule):  # type: ignore[misc]
    """NequIP's training module, with mean squared errors of response labels in the loss and RMSE in the metrics.

    The `response_loss:` section stands beside `long_range:` in the model section. Terms are called `NAME_mse` in
    `train_loss_…` and `NAME_rmse` in `val0_epoch`, with the names of the section.
    """

    response: ResponseLossConfig | None = None

    def __init__(self, **settings: Any) -> None:
        # Lightning writes `settings` into checkpoints: they stay as the user gave them
        section, model = take_section(settings["model"])
        response = None if section is None else ResponseLossConfig.parse(section, f"model.{RESPONSE_SECTION}")
        changed = {**settings, "model": model}
        if response is not None:
            changed["loss"] = _with_entries(settings.get("loss"), response, "loss")
            for kind in ("val_metrics", "test_metrics"):
                changed[kind] = _with_entries(settings.get(kind), response, kind)
        super().__init__(**changed)
        self.response = response
        if response is not None and long_range_part(self.model) is None:
            raise ConfigError(f"{RESPONSE_SECTION}: the model has no long_range section beside it, which is to learn")

    def forward(self, inputs: AtomicDataDict.Type) -> AtomicDataDict.Type:
        """NequIP's output, with the squared errors of the response of labelled batches."""
        labels = None if self.response is None else _labels(inputs)
        if self.response is None or labels is None:
            return super().forward(inputs)
        part = long_range_part(self.model)
        with observing(part, self.response.quantities, self.response.projections) as observed:
            output: AtomicDataDict.Type = super().forward(inputs)
        assert observed.response is not None
        for name, error in squared_errors(observed.response, labels).items():
            output[_ERROR.format(name)] = torch.stack(error) if self.training else torch.stack(error).detach()
        return output

    def log_dict(self, dictionary: Mapping[str, Any], *given: Any, **named: Any) -> None:
        """Lightning's, without errors of a quantity that no frame of the set has a label of."""
        names = () if self.response is None else self.response.quantities
        ours = tuple(f"{self.logging_delimiter}{_entry_name(name, root=True)}" for name in names)
        known = {key: value for key, value in dictionary.items() if not (key.endswith(ours) and isnan(value))}
        super().log_dict(known, *given, **named)

    def training_step(self, *given: Any, **named: Any) -> torch.Tensor:
        """NequIP's loss.

        On several processes each weight has a gradient in all of them, where one with a batch without labels had none
        of weights that only the response sees: the averages would be of different weights.
        """
        loss: torch.Tensor = super().training_step(*given, **named)
        if self.response is None or self.world_size == 1:
            return loss
        trained = [weight.sum() for weight in self.model.parameters() if weight.requires_grad]
        return loss + 0.0 * torch.stack([value.to(loss.dtype) for value in trained]).sum()


class EMAResponseLightningModule(ResponseLightningModule, EMALightningModule):  # type: ignore[misc]
    """The same with a moving average of the weights."""


class ScheduleFreeResponseLightningModule(ResponseLightningModule, ScheduleFreeLightningModule):  # type: ignore[misc]
    """The same with NequIP's schedule-free optimizers."""


class ResponseError(Metric):  # type: ignore[misc]
    """Mean squared error of one quantity over all components that have a label.

    Args:
        quantity: name in the section.
        root: the root of the mean; NaN without any label, where the mean itself is zero.
    """

    def __init__(self, quantity: str, root: bool = False) -> None:
        super().__init__()
        self.quantity, self.root = quantity, root
        for name in ("sum", "count"):
            self.add_state(name, default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, preds: AtomicDataDict.Type, target: AtomicDataDict.Type) -> None:
        """Add the errors of a batch."""
        error = preds.get(_ERROR.format(self.quantity))
        if error is not None:
            self.sum, self.count = self.sum + error[0], self.count + error[1].detach()

    def compute(self) -> torch.Tensor:
        """Of all batches since the last reset."""
        return (self.sum / self.count).sqrt() if self.root else self.sum / self.count.clamp(min=1.0)


def _labels(data: AtomicDataDict.Type) -> ResponseLabels | None:
    """Labels of a batch; None without any."""
    found = {name: data[field] for name, field in FIELDS.items() if field in data}
    if AtomicDataDict.POLARIZATION_KEY in data and "polarization" not in found:
        volume = torch.linalg.det(data[AtomicDataDict.CELL_KEY].view(-1, 3, 3)).abs()
        found["polarization"] = data[AtomicDataDict.POLARIZATION_KEY].view(-1, 3) * volume[:, None]
    shapes = {"dipole": (-1, 3), "polarization": (-1, 3)}
    return ResponseLabels(**{k: v.view(shapes.get(k, (-1, 3, 3))) for k, v in found.items()}) if found else None


def _with_entries(section: Any, response: ResponseLossConfig, kind: str) -> Any:
    """The section of a loss or of metrics with entries of ours."""
    if section is None:
        return None
    changed = copy.deepcopy(dict(section))
    accepted = inspect.signature(get_method(changed["_target_"])).parameters
    key = next((name for name in ("extra_metrics", "metrics") if name in accepted), None)
    if key is None:
        raise ConfigError(
            f"{RESPONSE_SECTION}: training_module.{kind} is {changed['_target_']}, which takes no further metrics; "
            "allowed: nequip.train.EnergyForceLoss, EnergyForceMetrics and others with extra_metrics, MetricsManager"
        )
    ours = [_entry(name, weight if kind == "loss" else None) for name, weight in response.weights.items()]
    changed[key] = [*(changed.get(key) or ()), *ours]
    return changed


def _entry(quantity: str, weight: float | None) -> Mapping[str, Any]:
    root = weight is None
    metric = {"_target_": f"{__name__}.ResponseError", "quantity": quantity, "root": root}
    return {"name": _entry_name(quantity, root), "metric": metric, "coeff": weight}


def _entry_name(quantity: str, root: bool) -> str:
    return f"{quantity}_{'rmse' if root else 'mse'}"
