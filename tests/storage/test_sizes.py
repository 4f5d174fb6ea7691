"""A config may not describe a model larger than its weights, whatever the host: nothing is allocated for it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_checkpoint import refusal, rewrite, seal
from torch import nn
from toy_host import ToyHost

import les_plugins
from les_plugins.errors import CheckpointError
from les_plugins.hosting.types import HostState
from les_plugins.storage.checkpoint import CONFIG, WEIGHTS
from les_plugins.storage.sizes import WeightSizes, building, check_description

SIZES = WeightSizes({"a.0.weight": torch.zeros(4, 8), "a.1.weight": torch.zeros(8), "b": torch.zeros(())})


class Nest(nn.Module):
    """So many modules in each other."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.items = nn.ModuleList(nn.Identity() for _ in range(number))


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(10**7, 10**7),
        lambda: torch.empty(10**12),
        lambda: torch.zeros((10**6, 10**6)),
        lambda: torch.ones(size=(10**12,)),
        lambda: torch.randn(10**6, 10**6),
        lambda: torch.eye(10**7),
        lambda: torch.arange(10**13),
        lambda: torch.empty(torch.tensor(10**12) + 1),
        lambda: torch.zeros((torch.tensor(10**6), 10**6)),
        lambda: nn.ModuleList(nn.Linear(300, 300) for _ in range(10)),
        lambda: Nest(10**5),
    ],
)
def test_what_is_larger_than_the_weights_is_refused_while_it_is_built(make: Callable[[], object]) -> None:
    start = time.monotonic()
    with pytest.raises(CheckpointError, match="more than its weights can fill"), building(SIZES):
        make()
    assert time.monotonic() - start < 5.0
    nn.Linear(300, 300)  # the limit has ended
    Nest(10)


def test_a_model_of_the_weights_own_size_is_built() -> None:
    with building(SIZES):
        model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 8))
    assert model[0].weight.shape == (4, 8)


def test_a_length_may_be_a_tensor() -> None:
    """metatrain's buffers are as long as the largest of the atomic numbers, some of which are tensors."""
    with building(SIZES):
        assert torch.empty(max(torch.tensor([1, 8])) + 1, dtype=torch.long).shape == (9,)


@pytest.mark.parametrize(
    "check",
    [
        lambda: SIZES.width("channels", 513),
        lambda: SIZES.width("channels", -1),
        lambda: SIZES.width("channels", True),
        lambda: SIZES.width("channels", 8.0),
        lambda: SIZES.width("channels", [8, "8"]),
        lambda: SIZES.depth("channels", 9),
        lambda: SIZES.degree("channels", 12),
        lambda: SIZES.layers("channels", 3, r"^a\.(\d+)\."),
        lambda: SIZES.listed("channels", [0] * 1000),
        lambda: SIZES.product("channels", 5, 10**400),
        lambda: SIZES.mask("channels", 5, 9),
        lambda: SIZES.cutoff("channels", float("inf")),
        lambda: SIZES.cutoff("channels", 0),
        *(
            lambda text=text: SIZES.irreps("channels", text)
            for text in ("", None, 3, "513x0e", "1x12e", "0e" + "+0e" * 50, "9x2e", "1x0q", "-1x0e", "9" * 5000 + "x0e")
        ),
    ],
)
def test_a_number_that_the_weights_cannot_have_is_refused_by_its_key(check: Callable[[], object]) -> None:
    with pytest.raises(CheckpointError, match="channels"):
        check()


def test_numbers_that_the_weights_have_are_accepted() -> None:
    SIZES.width("channels", [4, 8])
    SIZES.layers("layers", 2, r"^a\.(\d+)\.")
    SIZES.mask("l_max", 1, 8)
    SIZES.product("l_max", 1, 41)
    assert SIZES.irreps("irreps", "4x0e + 1o") == [(4, 0, "e"), (1, 1, "o")]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -(2**63), [[1.0, float("nan")]], {"b": {"c": 1e400}}])
def test_a_description_with_numbers_that_no_model_has_is_refused(value: object) -> None:
    with pytest.raises(CheckpointError, match=r"model\.a"):
        check_description({"a": value})


class WideHost(ToyHost):
    """Builds what the config asks for, as a host does, and fails as hosts do."""

    def rebuild(self, state: HostState) -> nn.Module:
        if state.model["width"] == 13:
            raise KeyError("a host's own failure")
        return nn.Linear(state.model["width"], state.model["width"])


@pytest.fixture
def saved(tmp_path: Path, with_plugins: Callable[..., None]) -> Path:
    with_plugins(toy=WideHost())
    return les_plugins.save(nn.Linear(3, 1), tmp_path / "water.les", "toy")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda config: config["model"].update(width=10**7), "more than its weights can fill"),
        (lambda config: config["model"].update(width=float("nan")), "model.width holds nan"),
        (lambda config: config["model"].update(width=13), "a host's own failure"),
        (lambda config: config["long_range"].update(hidden=4096), "long_range.hidden is 4096"),
        (lambda config: config.update(epsilon_infinity=3.0), "epsilon_infinity is 3.0, in long_range it is 1.78"),
        (lambda config: config.update(epsilon_infinity="1.78"), "epsilon_infinity is '1.78'"),
        (lambda config: config.update(susceptibility=[1]), "susceptibility is [1]"),
        (lambda config: config.update(format="x" * 10**6), "format is 'xxx"),
        (lambda config: config["versions"].update(toy="9" * 5000), "saved with toy '999"),
        (lambda config: config.update(host="q" * 10**6), "no adapter for the host"),
    ],
)
def test_a_forged_config_ends_in_one_short_message(saved: Path, change: Any, named: str) -> None:
    rewrite(saved / CONFIG, change)
    seal(saved)
    with pytest.raises(les_plugins.LesPluginsError) as caught:
        les_plugins.load(saved)
    assert named in str(caught.value)
    assert len(str(caught.value)) < 5000


def test_weights_that_are_not_finite_are_refused_by_the_name_of_the_tensor(saved: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(saved / WEIGHTS)
    tensors["weight"][0, 0] = float("inf")
    save_file(tensors, saved / WEIGHTS)
    seal(saved)
    assert refusal(saved) == f"{saved}: weights: 'weight' holds NaN or infinity"


@pytest.mark.parametrize(
    "header",
    [
        (2**63).to_bytes(8, "little"),
        (10**12).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{}" + b"x",
        (10**6).to_bytes(8, "little") + b"[" * 10**6,
        b"",
    ],
)
def test_a_header_that_lies_about_its_length_is_refused(saved: Path, header: bytes) -> None:
    (saved / WEIGHTS).write_bytes(header)
    seal(saved)
    assert WEIGHTS in refusal(saved)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]},
        {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [3], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]},
        {"dtype": "F999", "shape": [4], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [4], "data_offsets": [4, 20]},
    ],
)
def test_tensors_that_do_not_fit_the_file_are_refused(saved: Path, entry: dict[str, Any]) -> None:
    text = json.dumps({"weight": entry}).encode()
    (saved / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    seal(saved)
    assert WEIGHTS in refusal(saved)


def test_weights_of_eight_bits_are_refused_by_name(saved: Path) -> None:
    text = json.dumps({"weight": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()
    (saved / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    seal(saved)
    assert "'weight' is torch.float8_e4m3fn" in refusal(saved)


def test_tensors_that_share_their_bytes_are_refused(saved: Path) -> None:
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    text = json.dumps({"weight": entry, "bias": entry}).encode()
    (saved / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    seal(saved)
    assert WEIGHTS in refusal(saved)


@pytest.mark.parametrize("given", ["a\0b", "x" * 5000, "/dev/zero", "/dev/null/x"])
def test_a_path_that_no_folder_can_have_is_refused(given: str) -> None:
    with pytest.raises(CheckpointError):
        les_plugins.load(given)


KINDS = {"seed": "free", "r_max": "cutoff", "*depth": "depth", "l_max": "degree", "irreps*": "irreps", "*": "integers"}


@pytest.mark.parametrize(
    "settings",
    [
        {
            "seed": {"torch": 10**9, "numpy": [10**9]},
            "r_max": 5.0,
            "l_max": None,
            "scale": 1e9,
            "flag": True,
            "name": "x",
        },
        {"irreps": "8x0e+4x1o", "irreps_edge": 2, "irreps_of_layers": ["8x0e", "4x1o"], "depth": 3},
        {"basis": {"number": 8, "parts": [{"width": 8}, 4]}, "widths": [8, 8]},
    ],
)
def test_settings_that_the_weights_hold_are_let_through(settings: dict[str, Any]) -> None:
    SIZES.settings(settings, KINDS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r_max": "long"}, "r_max is 'long'"),
        ({"mlp_depth": 1000}, "mlp_depth is 1000"),
        ({"l_max": 12}, "l_max is 12"),
        ({"irreps": "1000x0e"}, "multiplicity is 1000"),
        ({"irreps_of_layers": ["8x0e", "1000x0e"]}, "multiplicity is 1000"),
        ({"irreps_of_layers": ["8x0e"] * 20}, "irreps_of_layers is 20"),
        ({"channels": 1000}, "channels is 1000"),
        ({"channels": [8, 1000]}, "channels is 1000"),
        ({"basis": {"parts": [4, {"width": 1000}]}}, "width is 1000"),
        ({"names": ["H"] * 1000}, "names has 1000 items"),
    ],
)
def test_a_setting_that_the_weights_do_not_hold_is_named_wherever_it_stands(settings: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        SIZES.settings(settings, KINDS)
