"""NequIP's modifiers that put other kernels in the place of its tensor products, with a long-range part around them.

What stands outside of a kernel keeps e3nn's layout. Those of cuEquivariance and OpenEquivariance run on GPUs only: here
a kernel of our own works in the other layout inside, a stand-in in the place of OpenEquivariance is called as that is
(open_equivariance.py), and cuEquivariance's, where it is installed (nox -s kernels), run on its CPU code.
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
from open_equivariance import TensorProductConv, installed

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


def open_equivariance(model):
    return modify(model, [{"modifier": "enable_OpenEquivariance"}])


@pytest.mark.parametrize("change", [our_kernel, open_equivariance, pytest.param(cuequivariance, marks=needs_cueq)])
def test_a_modified_model_gives_the_numbers_and_the_checkpoint_of_the_one_it_was(change, monkeypatch):
    installed(monkeypatch)
    if change is cuequivariance:
        on_cpu(monkeypatch)
    own = LongRangeModel(HOST_SECTIONS["nequip"], SECTION).eval()
    changed = change(copy.deepcopy(own))
    kernels = [type(part) for part in changed.modules() if isinstance(part, TensorProductScatter)]
    assert kernels
    assert TensorProductScatter not in kernels
    check_same_results(own, changed)
    assert (TensorProductConv.calls > 0) is (change is open_equivariance)
    state, expected = take_apart(changed), take_apart(own)
    assert state.model == expected.model
    for name, tensor in expected.tensors.items():
        assert torch.equal(state.tensors[name], tensor)
    rebuilt = [type(part) for part in rebuild(state).modules() if isinstance(part, TensorProductScatter)]
    assert rebuilt == [TensorProductScatter] * len(kernels)


@needs_cueq
def test_allegro_on_cuequivariance_gives_the_numbers_and_the_checkpoint_of_the_model_that_it_was(monkeypatch):
    from allegro.nn._strided._cueq_contracter import CuEquivarianceContracter

    on_cpu(monkeypatch)
    own = LongRangeModel({**HOST_SECTIONS["allegro"], "num_layers": 2}, SECTION).eval()
    changed = modify(copy.deepcopy(own), [{"modifier": "enable_CuEquivarianceContracter"}])
    kernels = [part for part in changed.modules() if isinstance(part, CuEquivarianceContracter)]
    assert kernels
    called = []
    kernels[0].cuet_sp.register_forward_hook(lambda *_: called.append(1))
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "is_cuda", True)  # Allegro takes the kernel on a GPU alone
        check_same_results(own, changed)
    assert called
    state, expected = take_apart(changed), take_apart(own)
    assert state.model == expected.model
    assert state.tensors.keys() == expected.tensors.keys()
    assert not [part for part in rebuild(state).modules() if isinstance(part, CuEquivarianceContracter)]


def test_the_section_may_stand_around_a_modified_model():
    section = {"_target_": "nequip.model.modify", "modifiers": [], "model": HOST_SECTIONS["nequip"]}
    model = LongRangeModel(section, SECTION)
    assert take_apart(model).model == HOST_SECTIONS["nequip"]


def check_same_results(own, changed):
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


def on_cpu(monkeypatch):
    """Where NequIP and Allegro ask cuEquivariance for fused kernels, which are for GPUs, they get its CPU code."""
    import cuequivariance_torch as cuet

    naive = functools.partial(_naive, kind=cuet.SegmentedPolynomial)
    monkeypatch.setattr(cuet, "SegmentedPolynomial", naive)


def _naive(polynomial, method, math_dtype, kind):
    kernel = kind(polynomial, method="naive", math_dtype=math_dtype)
    for part in kernel.modules():  # Allegro wants a kernel without tensors in its state dict, as the fused one is
        part._non_persistent_buffers_set.update(part._buffers)
    return kernel
