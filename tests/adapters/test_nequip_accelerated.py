"""NequIP's modifiers that put other kernels in the place of its tensor products, with a long-range part around them.

What stands outside of a kernel keeps e3nn's layout. Those of cuEquivariance and OpenEquivariance run on GPUs only: here
a kernel of our own works in the other layout inside, and cuEquivariance's, where it is installed, on its CPU code.
"""

import copy
import functools
import importlib.util

import numpy as np
import pytest

pytest.importorskip("nequip", reason="nequip is not installed: nox -s tests-nequip")

import torch
from nequip.model import modify
from nequip.nn import replace_submodules
from nequip.nn._tp_scatter_base import TensorProductScatter

from les_plugins.adapters.nequip.builder import LongRangeModel
from les_plugins.adapters.nequip.calculator import LesNequIPCalculator
from les_plugins.adapters.nequip.contract import HOST_SECTIONS
from les_plugins.adapters.nequip.state import rebuild, take_apart
from les_plugins.testing.structures import waters

SECTION = {"response": {"dipole": "isotropic"}, "total_charge": "conserved", "net_charge_warning": None}
#: The same sums in another order, eV, eV/Å and e.
SAME = 1e-10
needs_cueq = pytest.mark.skipif(
    importlib.util.find_spec("cuequivariance_torch") is None, reason="cuequivariance_torch is not installed"
)


class InOtherLayout(TensorProductScatter):
    """As a kernel that wants components before channels: turned going in, and turned back coming out."""

    def forward(self, x, edge_attr, edge_weight, edge_dst, edge_src):
        inside = _turned(_turned(x, self.feature_irreps_in, True), self.feature_irreps_in, False)
        found = super().forward(inside, edge_attr, edge_weight, edge_dst, edge_src)
        return _turned(_turned(found, self.irreps_mid, True), self.irreps_mid, False)


def _turned(values, irreps, components_first):
    parts = []
    for block, (channels, irrep) in zip(values.split([mul * ir.dim for mul, ir in irreps], 1), irreps, strict=True):
        shape = (channels, irrep.dim) if components_first else (irrep.dim, channels)
        parts.append(block.reshape(len(values), *shape).transpose(1, 2).flatten(1))
    return torch.cat(parts, 1)


def our_kernel(model):
    def other(old):
        new = InOtherLayout(old.feature_irreps_in, old.irreps_edge_attr, old.irreps_mid, old.instructions)
        new.tp = old.tp
        return new

    return replace_submodules(model, TensorProductScatter, other)


def cuequivariance(model):
    return modify(model, [{"modifier": "enable_CuEquivariance"}])


@pytest.mark.parametrize("change", [our_kernel, pytest.param(cuequivariance, marks=needs_cueq)])
def test_a_modified_model_gives_the_numbers_and_the_checkpoint_of_the_one_it_was(change, monkeypatch):
    if change is cuequivariance:
        import cuequivariance_torch as cuet

        # NequIP asks for the fused kernel, which is for GPUs
        naive = functools.partial(_on_cpu, kind=cuet.SegmentedPolynomial)
        monkeypatch.setattr(cuet, "SegmentedPolynomial", naive)
    own = LongRangeModel(HOST_SECTIONS["nequip"], SECTION).eval()
    changed = change(copy.deepcopy(own))
    kernels = [type(part) for part in changed.modules() if isinstance(part, TensorProductScatter)]
    assert kernels
    assert TensorProductScatter not in kernels
    found = []
    for model in (own, changed):
        atoms = waters()
        atoms.calc = LesNequIPCalculator(model)
        results = [atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()]
        results += [atoms.calc.results[name] for name in ("charges", "latent_dipoles")]
        found.append([*results, atoms.calc.get_born_effective_charges(atoms)])
    for ours, expected in zip(found[1], found[0], strict=True):
        assert np.abs(expected).max() > 1e-6
        np.testing.assert_allclose(ours, expected, rtol=0, atol=SAME)
    state, expected = take_apart(changed), take_apart(own)
    assert state.model == expected.model
    for name, tensor in expected.tensors.items():
        assert torch.equal(state.tensors[name], tensor)
    rebuilt = [type(part) for part in rebuild(state).modules() if isinstance(part, TensorProductScatter)]
    assert rebuilt == [TensorProductScatter] * len(kernels)


def test_the_section_may_stand_around_a_modified_model():
    section = {"_target_": "nequip.model.modify", "modifiers": [], "model": HOST_SECTIONS["nequip"]}
    model = LongRangeModel(section, SECTION)
    assert take_apart(model).model == HOST_SECTIONS["nequip"]


def _on_cpu(polynomial, method, math_dtype, kind):
    return kind(polynomial, method="naive", math_dtype=math_dtype)
