"""What an adapter's author fills in so that the contract can run: `ContractHost`. The laws are in files beside it."""

from __future__ import annotations

import copy
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from ase import Atoms
from torch import nn

from les_plugins import api
from les_plugins.hosting import registry as plugins
from les_plugins.hosting.evaluated import HostResult
from les_plugins.model.long_range import LongRange, LongRangeResult
from les_plugins.moved import renamed
from les_plugins.testing.structures import waters

#: The section that most laws are checked with: every moment and every response.
FULL: Mapping[str, Any] = {"response": {"charge": True, "dipole": "anisotropic"}}
#: Latent moments that `amplify` aims at, in e, e·Å, e·Å²: those of a trained water model.
NATURAL = {"charge": 0.2, "dipole": 0.1, "quadrupole": 0.1}


class ContractHost(ABC):
    """How to make and run a tiny model of one host.

    Attributes:
        host: name of the adapter's entry point.
        model_name: which of the host's models this is, where a host has several; the report's heading.
        section: the `long_range:` section that the laws are checked with.
        sum_rule: bound on the violation of the acoustic sum rule in a small periodic cell, mean Z* over largest Z*;
            none by default, for random weights can make it large.
        slabs: whether the host knows structures that are periodic along two axes.
        knows_every_element: whether each model of the host knows the same elements, whatever it was trained on.
        skips: tests that cannot be run for this host, each with the reason, which the report prints.
        section_name: the key under which `train` writes the section; a law misspells it.
    """

    host: ClassVar[str]
    model_name: ClassVar[str] = ""
    section: ClassVar[Mapping[str, Any]] = FULL
    sum_rule: ClassVar[float] = math.inf
    slabs: ClassVar[bool] = True
    knows_every_element: ClassVar[bool] = False
    skips: ClassVar[Mapping[str, str]] = {}
    section_name: str = "long_range"

    @abstractmethod
    def make_model(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
        """A bare host model for H and O, as small as can be, its weights random but fixed by the seed.

        Give it several channels, a cutoff between 2.5 and 4 Å, and no reference to anything downloaded.
        """

    def make_other_model(self) -> nn.Module | None:
        """A bare float64 model for H, C and O, whose cutoff and mean number of neighbours are others; None without one.

        A law looks whether the adapter reads them from the model.
        """
        return None

    @abstractmethod
    def evaluate(self, model: nn.Module, frames: Sequence[Atoms], training: bool = False) -> HostResult:
        """One forward pass of all frames as one batch, through the host's own data pipeline.

        Args:
            model: a bare model, or what `les_plugins.attach` made of it.
            frames: periodic and open structures and, with `slabs`, slabs, mixed.
            training: as the host's trainer calls it: the graph of energy and forces is kept.
        """

    def train(self, folder: Path, frames: Sequence[Atoms], section: Mapping[str, Any]) -> Path:
        """Train for an epoch or two: `registry.host(self.host).train(config, (), {"data_licence": "none"})`.

        Laws that call it are skipped for a host without a trainer.

        Args:
            folder: an empty folder, the working directory, for data and config file.
            frames: structures with energy and forces in their calculators.
            section: the section to put into the config, under the key `self.section_name`.

        Returns:
            The checkpoint that was written.
        """
        if plugins.host(self.host).offers("train"):
            pytest.fail(f"{type(self).__name__} has no train, which the adapter of {self.host} implements")
        pytest.skip(f"the adapter of {self.host} has no trainer")

    def in_float64(self, model: nn.Module) -> nn.Module:
        """A copy of a float32 model that computes in float64 with the same weights.

        Override where the host fixes the dtype of a model when it is built.
        """
        return copy.deepcopy(model).double()

    def refusals(self, model: nn.Module) -> Mapping[str, Callable[[], object]]:
        """Uses that this host offers and a long-range model cannot serve, each with a call that must be refused.

        Args:
            model: a model with its long-range part.
        """
        return {}

    @pytest.fixture(autouse=True)
    def _skip_with_reason(self, request: pytest.FixtureRequest) -> None:
        name = request.function.__name__
        if name in self.skips:
            pytest.skip(self.skips[name])

    def attached(
        self,
        section: Mapping[str, Any] | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> nn.Module:
        """A fresh tiny model with a long-range part whose moments are of natural size."""
        bare = self.make_model(dtype=dtype)
        torch.manual_seed(0)  # the heads of two models that are compared must be the same
        model = api.attach(bare, dict(self.section if section is None else section))
        return self.amplify(model)

    @property
    def model(self) -> nn.Module:
        """One attached model, made once for all tests that do not change it."""
        return _shared(type(self))

    def energy(self, atoms: Atoms) -> float:
        """Total energy of one structure, eV."""
        return self.evaluate(self.model, [atoms]).energy.item()

    def latent(self, model: nn.Module, frames: Sequence[Atoms]) -> LongRangeResult:
        """What the long-range part inside a model returns for a batch."""
        return self.evaluate_with_latent(model, frames)[1]

    def evaluate_with_latent(self, model: nn.Module, frames: Sequence[Atoms]) -> tuple[HostResult, LongRangeResult]:
        """Both at once; the latter is caught on its way, whatever the host does with it."""
        caught: list[LongRangeResult] = []
        handle = long_range_part(model).register_forward_hook(lambda module, inputs, output: caught.append(output))
        try:
            evaluation = self.evaluate(model, frames)
        finally:
            handle.remove()
        assert len(caught) == 1, f"the long-range part was called {len(caught)} times in one evaluation"
        return evaluation, caught[0]

    def calculator(self, model: nn.Module) -> Any:
        """The host's ASE calculator of a model, as `les_plugins.load` makes it."""
        return plugins.host(self.host).calculator(model, {}, "cpu")

    def amplify(self, model: nn.Module) -> nn.Module:
        """Scale the last layer of every head so that fresh random moments are as large as trained ones.

        Without it a law could hold because the long-range part is too small to be seen.
        """
        found = self.latent(model, [waters()]).permanent
        heads = long_range_part(model).heads
        for name, target in NATURAL.items():
            moment, head = getattr(found, name), getattr(heads, name, None)
            if moment is None or head is None:
                continue
            # a charge common to all atoms is not seen: its background neutralises it
            size = float(moment.detach().std() if name == "charge" else moment.detach().square().mean().sqrt())
            if size > 0.0:
                _scale_output(head, min(target / size, 1e6))
        return model


def long_range_part(model: nn.Module) -> LongRange:
    """The `LongRange` inside an attached model."""
    parts = [module for module in model.modules() if isinstance(module, LongRange)]
    assert len(parts) == 1, f"an attached model holds one LongRange among its submodules; this one holds {len(parts)}"
    return parts[0]


def _scale_output(head: nn.Module, factor: float) -> None:
    parameters = dict(head.named_parameters())
    products = any(name.startswith("left.") for name in parameters)
    with torch.no_grad():
        for name, parameter in parameters.items():
            if name in ("mix.weight", "tensors.weight", "out.weight") or name.startswith("linear."):
                parameter.mul_(factor)
            elif name in ("left.weight", "right.weight") and products:
                parameter.mul_(math.sqrt(factor))
            elif name.startswith("network.") and name.split(".")[2] == "2":
                parameter.mul_(factor)


@functools.cache
def _shared(contract: type[ContractHost]) -> nn.Module:
    return contract().attached()


__getattr__ = renamed(__name__, {"Evaluation": "HostResult"})
