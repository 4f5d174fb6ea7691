"""Saving: the model first, then the sign of its moments and its susceptibility; whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from safetensors.torch import load_file
from torch import nn
from toy_host import BareHost

import les_plugins
from les_plugins import LongRangeConfig
from les_plugins.errors import CheckpointError, LesPluginsWarning
from les_plugins.hosting.build import build_long_range
from les_plugins.hosting.types import HostState
from les_plugins.model.features import FeatureLayout, LayerLayout
from les_plugins.storage import checkpoint
from les_plugins.storage.checkpoint import WEIGHTS

SECTION = LongRangeConfig.parse({"multipoles": ["charge"]})


class ChargedHost(BareHost):
    """The toy, with a long-range part whose sign is wrong for water, and a calculator that evaluates it."""

    susceptibility = 0.5
    heads = ("a", "b")
    fails = False

    def state(self, model: nn.Module) -> HostState:
        return HostState("toy", {"toy": "1.0"}, {"width": 3}, SECTION, model.state_dict(), {"heads": list(self.heads)})

    def calculator(self, model: nn.Module, metadata: Mapping[str, Any], device: str) -> Any:
        if self.fails:
            raise RuntimeError("no calculator today")
        host = self

        class Evaluates(Calculator):
            implemented_properties = ("energy", "born_effective_charges")
            head = metadata.get("head")

            def calculate(self, atoms: Any = None, properties: Any = (), system_changes: Any = ()) -> None:
                assert self.head == "a"
                charges = float(model.gauge) * (np.where(atoms.numbers == 8, 0.8, -0.4))
                chi = host.susceptibility * atoms.cell[0, 0] / 10.0
                self.results = {"energy": 0.0, "born_effective_charges": charges[:, None, None] * np.eye(3)}
                if atoms.pbc.all():
                    self.results["susceptibility"] = chi

        return Evaluates()


@pytest.fixture
def charged(with_plugins: Callable[..., None]) -> tuple[ChargedHost, nn.Module]:
    host = ChargedHost()
    with_plugins(toy=host)
    return host, build_long_range(FeatureLayout((LayerLayout(2),)), SECTION)


WATERS = [
    Atoms("O", cell=[10.0] * 3, pbc=True),
    Atoms("OHH", np.eye(3)),
    Atoms("OHH", np.eye(3), cell=[10.0, 10.0, 10.0], pbc=True),
    Atoms("OHH", np.eye(3), cell=[20.0, 10.0, 10.0], pbc=True),
]


def test_the_sign_is_set_in_what_is_saved_and_not_in_the_callers_model(
    charged: tuple[ChargedHost, nn.Module], tmp_path: Path
) -> None:
    _, model = charged
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folder = les_plugins.save(model, tmp_path / "water.les", "toy", {"data_licence": "none"}, WATERS)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    kept = load_file(folder / WEIGHTS)
    assert kept["gauge"] == -before["gauge"]
    config = checkpoint.read_config(folder)
    sign = config["metadata"]["gauge"]
    assert (sign["decided"], sign["turned"]) == (True, True)
    assert sign["covariance"] > 0.0
    assert config["metadata"]["data_licence"] == "none"
    checkpoint.verify(folder)


def test_the_sign_of_a_model_that_reads_charges_is_left_alone_whatever_frames_there_are(
    charged: tuple[ChargedHost, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = LongRangeConfig.parse({"multipoles": ["charge"], "total_charge": "given"})
    monkeypatch.setitem(ChargedHost.state.__globals__, "SECTION", section)
    model = build_long_range(FeatureLayout((LayerLayout(2),)), section)
    folder = les_plugins.save(model, tmp_path / "ions.les", "toy", frames=WATERS)  # neutral, and of the wrong sign
    assert load_file(folder / WEIGHTS)["gauge"] == 1.0
    sign = checkpoint.read_config(folder)["metadata"]["gauge"]
    assert (sign["decided"], sign["turned"], sign["reason"]) == (True, False, "of the total charges")


def test_the_mean_susceptibility_of_periodic_frames_is_kept(
    charged: tuple[ChargedHost, nn.Module], tmp_path: Path
) -> None:
    host, model = charged
    folder = les_plugins.save(model, tmp_path / "water.les", "toy", frames=WATERS)
    assert checkpoint.read_config(folder)["susceptibility"] == pytest.approx((0.5 + 0.5 + 1.0) / 3, rel=1e-12)
    folder = les_plugins.save(model, tmp_path / "open.les", "toy", frames=WATERS[1:2])
    assert checkpoint.read_config(folder)["susceptibility"] is None
    host.susceptibility = 0.0
    folder = les_plugins.save(model, tmp_path / "rigid.les", "toy", frames=WATERS)
    assert checkpoint.read_config(folder)["susceptibility"] is None


def test_whatever_fails_after_the_model_was_written_loses_nothing(
    charged: tuple[ChargedHost, nn.Module], tmp_path: Path
) -> None:
    host, model = charged
    host.fails = True
    with pytest.warns(LesPluginsWarning, match="sign of the charges is not certain.*no calculator today"):
        folder = les_plugins.save(model, tmp_path / "water.les", "toy", frames=WATERS)
    checkpoint.verify(folder)
    assert not checkpoint.read_config(folder)["metadata"]["gauge"]["decided"]


def test_frames_that_cannot_tell_the_sign_are_a_warning(charged: tuple[ChargedHost, nn.Module], tmp_path: Path) -> None:
    with pytest.warns(LesPluginsWarning, match="different electronegativity"):
        les_plugins.save(charged[1], tmp_path / "water.les", "toy", frames=WATERS[:1])


def test_a_checkpoint_that_cannot_be_written_leaves_nothing_behind(
    charged: tuple[ChargedHost, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    les_plugins.save(charged[1], tmp_path / "water.les", "toy")
    before = {item.name: item.read_bytes() for item in (tmp_path / "water.les").iterdir()}
    monkeypatch.setattr(checkpoint, "save_file", full)
    for name in ("water.les", "other.les"):
        with pytest.raises(CheckpointError, match=f"{name}: cannot be written: No space left on device"):
            les_plugins.save(charged[1], tmp_path / name, "toy")
    assert [item.name for item in tmp_path.iterdir()] == ["water.les"]
    assert {item.name: item.read_bytes() for item in (tmp_path / "water.les").iterdir()} == before


def test_metadata_that_is_no_json_is_refused(charged: tuple[ChargedHost, nn.Module], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"metadata must be JSON-compatible: .*LongRange"):
        les_plugins.save(charged[1], tmp_path / "water.les", "toy", {"model": charged[1]})
    assert not list(tmp_path.iterdir())
