"""`response_loss:` in MACE's training: labels in its batches, terms in its loss, errors in its log.

`train.py` opens `response_seam` around MACE's `run`; the names of MACE that are substituted stand there.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from mace import data as mace_data
from mace import tools
from mace.cli import run_train
from mace.data import utils as data_utils
from mace.tools import run_train_utils
from torch import Tensor, nn

from les_plugins.config import LongRangeConfig
from les_plugins.data.response_labels import check_response_labels, response_labels
from les_plugins.data.training import TrainingFiles, numbered
from les_plugins.errors import ConfigError
from les_plugins.hosting.substitution import substituted
from les_plugins.model.outputs import long_range_part
from les_plugins.model.response_config import QUANTITIES, RESPONSE_SECTION, ResponseLossConfig
from les_plugins.model.response_loss import ResponseLabels, SquaredError, response_loss, squared_errors
from les_plugins.model.response_prediction import Observed, observing
from les_plugins.model.response_support import check_frames

#: Fields of MACE's batches.
_FIELD = "les_response_{}"


def check_labels(files: TrainingFiles, response: ResponseLossConfig, section: LongRangeConfig) -> None:
    """Look for the labels of every weight in the structure files.

    Raises:
        ConfigError: HDF5 or LMDB files, which hold no such labels.
        DataError: as `response_labels`, `check_response_labels` and `check_frames` of `response_support`.
    """
    if files.unread:
        unread = ", ".join(map(str, files.unread))
        raise ConfigError(f"{unread}: holds no response labels; allowed with {RESPONSE_SECTION}: structure files")
    for kind in ("train", "valid"):
        some = getattr(files, kind)
        found = [(place, atoms.pbc, response_labels(atoms, place)) for place, atoms in numbered(some)]
        check_frames(section, response, found)
        if found:
            mentions = {name: sum(name in labels for _, _, labels in found) for name in QUANTITIES}
            where, quantities = ", ".join(map(str, some)), response.quantities
            check_response_labels(found, mentions, quantities, response.named, where, is_training_set=kind == "train")


@contextmanager
def response_seam(response: ResponseLossConfig) -> Iterator[None]:
    """While open, MACE reads response labels, and its training loop has their terms in its loss and its log."""
    configure, train = data_utils.config_from_atoms, tools.train
    loop = sys.modules["mace.tools.train"]  # in mace.tools the name is that of the function

    def config_from_atoms(atoms: Any, *rest: Any, **named: Any) -> Any:
        config = configure(atoms, *rest, **named)
        config.les_response = response_labels(atoms, "a frame of the training or validation files")
        return config

    def train_on_response(*rest: Any, **named: Any) -> Any:
        part = long_range_part(named["model"])
        assert part is not None, "train.py asks for a long_range section"
        with observing(part, response.quantities, response.projections) as observed:
            named["loss_fn"] = ResponseTerms(named["loss_fn"], response, observed)
            if named.get("swa") is not None:
                second = ResponseTerms(named["swa"].loss_fn, response, observed)
                named["swa"] = dataclasses.replace(named["swa"], loss_fn=second)
            return train(*rest, **named)

    data = SimpleNamespace(**{**vars(mace_data), "AtomicData": SimpleNamespace(from_config=_labelled_data)})
    with ExitStack() as stack:
        stack.enter_context(substituted(data_utils, "config_from_atoms", config_from_atoms))
        stack.enter_context(substituted(run_train, "data", data))
        stack.enter_context(substituted(run_train_utils, "data", data))
        stack.enter_context(substituted(tools, "train", train_on_response))
        stack.enter_context(substituted(loop, "evaluate", _evaluating(loop.evaluate)))
        yield


class ResponseTerms(nn.Module):
    """A loss of MACE and the terms of the response section; its own terms keep their weights.

    Args:
        host: MACE's loss.
        response: the section.
        observed: of the part that is trained.
    """

    def __init__(self, host: nn.Module, response: ResponseLossConfig, observed: Observed) -> None:
        super().__init__()
        self.host, self.weights, self.observed = host, response.weights, observed
        self.errors: dict[str, SquaredError] = {}

    def forward(self, ref: Any, pred: Mapping[str, Tensor], ddp: bool | None = None) -> Tensor:
        """The loss of a batch."""
        assert self.observed.response is not None
        errors = squared_errors(self.observed.response, _labels_of(ref, self.weights))
        for name, error in errors.items():
            sums = SquaredError(error.sum.detach(), error.components)
            before = self.errors.get(name)
            self.errors[name] = sums if before is None else SquaredError(*map(torch.add, before, sums))
        own: Tensor = self.host(ref=ref, pred=pred, ddp=ddp)
        shared = {name: among_ranks(error) for name, error in errors.items()}
        return own + response_loss(shared, self.weights).to(own.dtype)

    def root_mean_squares(self) -> dict[str, float]:
        """RMSE of each quantity that a label counted for since the last call, by names of MACE's log."""
        errors, self.errors = self.errors, {}
        sums = {name: SquaredError(*map(_sum_of_ranks, error)) for name, error in sorted(errors.items())}
        return {f"rmse_{name}": float(error.mean.sqrt()) for name, error in sums.items() if error.components > 0}


def among_ranks(error: SquaredError) -> SquaredError:
    """With the components of all processes; their number times the sum, as gradients are averaged over processes."""
    ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    return SquaredError(error.sum * ranks, _sum_of_ranks(error.components))


def _evaluating(evaluate: Any) -> Any:
    """MACE's evaluation of a validation set, with the errors of the response among its metrics."""

    def evaluate_with_response(model: Any, loss_fn: Any, **named: Any) -> Any:
        if not isinstance(loss_fn, ResponseTerms):
            return evaluate(model=model, loss_fn=loss_fn, **named)
        loss_fn.root_mean_squares()  # what training left
        loss, metrics = evaluate(model=model, loss_fn=loss_fn, **named)
        found = loss_fn.root_mean_squares()
        metrics.update(found)
        if found:
            logging.info("Response: %s", ", ".join(f"{name.upper()}={value:.5f}" for name, value in found.items()))
        return loss, metrics

    return evaluate_with_response


def _labelled_data(config: Any, **named: Any) -> Any:
    """MACE's graph of a configuration, with its response labels; NaN for those that it has not."""
    item = mace_data.AtomicData.from_config(config, **named)
    labels = getattr(config, "les_response", {})  # isolated atoms of MACE have none
    for name in QUANTITIES:
        shape = {"born_effective_charges": (item.num_nodes, 3, 3), "polarizability": (1, 3, 3)}.get(name, (1, 3))
        value = torch.full(shape, float("nan"))
        if name in labels:
            value = torch.as_tensor(labels[name], dtype=value.dtype).view(shape)
        item[_FIELD.format(name)] = value
    return item


def _labels_of(batch: Any, quantities: Iterable[str]) -> ResponseLabels:
    return ResponseLabels(**{name: batch[_FIELD.format(name)] for name in quantities})


def _sum_of_ranks(value: Tensor) -> Tensor:
    if not torch.distributed.is_initialized():
        return value
    total = value.clone()
    torch.distributed.all_reduce(total)
    return total
