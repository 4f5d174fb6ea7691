"""NequIP with a long-range part as machine code: the model's numbers, feature by feature, or a refusal, or NaN.

What is found is a column of docs/reference/compilers.md; see `compilers_page`.
`test_nequip_compile` has NequIP's own commands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nequip", reason="nequip is not installed: nox -s tests-nequip")

import torch
from ase import Atoms
from compilers_page import LAYER_ALONE, check_column, refusal
from nequip.nn.compile import DictInputOutputWrapper
from nequip.scripts._compile_utils import COMPILE_TARGET_DICT
from nequip.utils.aot import aot_export_model
from nequip_models import batch_of, tiny_long_range, waters
from torch import Tensor

from les_plugins.config import LongRangeConfig
from les_plugins.errors import ConfigError, GeometryError

#: What torch's compiler says of torch's own code.
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("FutureWarning", "DeprecationWarning")]
MODE = "NequIP, AOTInductor"
SECTION = {"dl": 2.0, "static_cell": [9.0, 9.0, 9.0], "net_charge_warning": None}
CHARGE = {"multipoles": ["charge"]}
#: Rows of the table that the tests below fill.
FEATURES_TRIED = 21
#: Sums in another order, relative to the largest value.
ROUNDING = 1e-10


class Compiled:
    """A NequIP of random weights in float64 and what `nequip-compile --mode aotinductor` makes of it.

    Args:
        target: of nequip-compile.
        section: `long_range:`, beside `SECTION`.
        folder: where the file is written.
        inputs: fields that the target does not hand over, as those of --input-fields.
    """

    def __init__(self, target: str, section: dict[str, Any], folder: Path, inputs: tuple[str, ...] = ()) -> None:
        self.target, self.settings = target, COMPILE_TARGET_DICT[target]
        self.model = tiny_long_range("nequip", {**SECTION, **section}, num_layers=1)
        dims = {name: torch.export.Dim(f"num_{name}s", min=2) for name in ("graph", "node", "edge")}
        fields = [*self.settings["input"], *inputs], self.settings["output"]
        path = aot_export_model(
            self.model,
            "cpu",
            *fields,
            self.settings["data_settings"](batch_of([waters()])),
            self.settings["batch_map_settings"](dims),
            str(folder / "model.nequip.pt2"),
        )
        self.run = DictInputOutputWrapper(torch._inductor.aoti_load_package(path), *fields)

    def data(self, *frames: Atoms) -> dict[str, Tensor]:
        data = batch_of(frames)
        return data if self.target == "batch" else self.settings["data_settings"](data)

    def check(self, *frames: Atoms, model: torch.nn.Module | None = None) -> dict[str, Tensor]:
        """Assert that every output is that of the model, and return them."""
        found, expected = self.run(self.data(*frames)), (model or self.model)(self.data(*frames))
        for name in self.settings["output"]:
            right = expected[name].detach()
            scale = max(1.0, float(right.abs().max()))
            torch.testing.assert_close(found[name], right, rtol=0, atol=ROUNDING * scale, msg=name)
        return found


def strained() -> Atoms:
    """A left-handed cell of other lengths than the rest."""
    atoms = waters(3, seed=4)
    atoms.set_cell(atoms.cell.array @ np.diag([1.2, 0.9, -1.1]), scale_atoms=True)
    return atoms


@pytest.fixture(scope="module")
def column() -> dict[str, str]:
    """What these tests find of each feature, for the table of docs/reference/compilers.md."""
    return {}


@pytest.mark.training
def test_charges_for_nequips_calculator_and_no_second_derivative(tmp_path, column):
    compiled = Compiled("ase", CHARGE, tmp_path)
    for atoms in (waters(2, seed=3), waters(5, seed=1), strained()):
        compiled.check(atoms)
    column["charge"] = "same"
    data = compiled.data(waters(2))
    data["pos"].requires_grad_()
    with pytest.raises(RuntimeError, match="does not require grad") as caught:
        torch.autograd.grad(compiled.run(data)["forces"].square().sum(), data["pos"])
    column["second derivatives (training on forces)"] = refusal(caught.value)


@pytest.mark.training
def test_batches_of_other_sizes_with_dipoles_and_isotropic_responses(tmp_path, column):
    section = {"multipoles": ["charge", "dipole"], "response": {"charge": True, "dipole": "isotropic"}}
    compiled = Compiled("batch", section, tmp_path)
    compiled.check(waters(2), waters(4, seed=2))
    column["charge, dipole; induced charge; isotropic induced dipole"] = "same"
    compiled.check(waters(1), strained(), waters(5, seed=2))
    column["triclinic and left-handed cells in one batch"] = "same"
    column["other numbers of atoms and structures, other cells"] = "same"


@pytest.mark.training
def test_charge_that_flows_over_pairs(tmp_path, column):
    response = {"charge": "pairs", "pair_softness": "edges", "dipole": "isotropic"}
    compiled = Compiled("batch", {"multipoles": ["charge", "dipole"], "response": response}, tmp_path)
    compiled.check(waters(2), waters(4, seed=2))
    compiled.check(waters(1), strained(), waters(5, seed=2))
    column["charge, dipole; charge over pairs; isotropic induced dipole"] = "same"


@pytest.mark.training
def test_all_moments_and_responses_and_no_number_for_what_the_grid_does_not_cover(tmp_path, column):
    section = {
        "multipoles": ["charge", "dipole", "quadrupole"],
        "response": {"charge": True, "dipole": "anisotropic"},
    }
    compiled = Compiled("batch", section, tmp_path, inputs=("pbc",))
    compiled.check(waters(3, seed=3), strained(), waters(1))
    column["charge, dipole, quadrupole; induced charge; anisotropic induced dipole"] = "same"
    column["forces and virial"] = "same"
    slab, opened = waters(2), waters(2)
    slab.pbc, opened.pbc = [True, True, False], False
    for feature, frames in {
        "a cell beyond static_cell": (waters(2), waters(2).repeat((1, 1, 2))),
        "open structure": (opened, opened),
        "open and periodic in one batch": (waters(2), opened),
        "slab": (waters(2), slab),
    }.items():
        found = compiled.run(compiled.data(*frames))
        assert found["total_energy"].isnan().view(-1).tolist() == [frames[0] is opened, True]
        assert bool(found["forces"].isnan().all())
        column[feature] = "NaN"


@pytest.mark.training
def test_born_charges_of_the_target_of_our_calculator(tmp_path, column):
    section = {"multipoles": ["charge", "dipole"], "response": {"charge": True, "dipole": "isotropic"}}
    compiled = Compiled("les_ase", section, tmp_path)
    for atoms in (waters(2, seed=3), waters(5, seed=1), strained()):
        found = compiled.check(atoms)
        assert float(found["latent_born_charges"].abs().max()) > 0.1
    column["Born effective charges"] = "same"


@pytest.mark.training
def test_shifted_charges_and_the_direct_sum_for_a_model_that_uses_the_mesh(tmp_path, column, monkeypatch):
    # NEQUIP_SKIP_AOTI_MODEL_CHECK: NequIP's own check compares to 1e-12, the direct sum with the mesh here
    monkeypatch.setattr("nequip.utils.aot._NEQUIP_SKIP_AOTI_MODEL_CHECK", True)
    section = {**CHARGE, "neutralize": "shift"}
    compiled = Compiled("pair_nequip", {**section, "method": "mesh"}, tmp_path)
    direct = tiny_long_range("nequip", {**SECTION, **section, "method": "direct"}, num_layers=1)
    compiled.check(waters(2, seed=3), model=direct)
    column["neutralize: shift"] = column["method: mesh (compiled: direct)"] = "same"


@pytest.mark.parametrize(
    ("feature", "section"),
    [
        ("without static_cell", {"static_cell": None}),
        ("neutralize: refuse", {"neutralize": "refuse"}),
        ("response: self_consistent", {"response": {"dipole": "isotropic", "solve": "self_consistent"}}),
    ],
)
def test_what_cannot_be_compiled_raises_an_error(feature, section, tmp_path, column):
    with pytest.raises((ConfigError, GeometryError), match="traced") as caught:
        Compiled("ase", {**CHARGE, **section}, tmp_path)
    column[feature] = refusal(caught.value)


def test_models_have_no_setting_or_input_for_what_the_layer_alone_has(column):
    inputs = {name for target in COMPILE_TARGET_DICT.values() for name in target["input"]}
    assert not {"channels", "external_field", "process_group"} & ({*LongRangeConfig.model_fields} | inputs)
    column.update(LAYER_ALONE)


def test_docs_compilers_says_what_was_found(column):
    if len(column) < FEATURES_TRIED:
        pytest.skip("the other tests of this file were not all run, or failed")
    check_column(MODE, column)
