"""MACE on the kernels of cuEquivariance and OpenEquivariance: layouts of features, same numbers, training.

cuEquivariance runs on its CPU code, where it is installed (nox -s kernels). OpenEquivariance needs a GPU: here a
stand-in runs in its place, which MACE calls as it calls the package (open_equivariance.py).
"""

import functools

import numpy as np
import pytest

pytest.importorskip("mace", reason="mace-torch is not installed: nox -s tests-mace")

import torch
from mace.cli import convert_e3nn_hybrid
from mace.modules import wrapper_ops
from mace.modules.wrapper_ops import CUET_AVAILABLE
from open_equivariance import TensorProductConv, installed
from test_mace_training import LONG_RANGE, train, work, write_config  # noqa: F401

from les_plugins import api
from les_plugins.adapters.mace import accelerated, model
from les_plugins.adapters.mace.calculator import LesMACECalculator
from les_plugins.adapters.mace.contract import MACEContract, tiny_mace
from les_plugins.adapters.mace.state import rebuild, take_apart
from les_plugins.errors import HostError
from les_plugins.testing.structures import waters

pytestmark = pytest.mark.filterwarnings("ignore:cuequivariance_ops_torch is not available")  # its kernels for GPUs
needs_cueq = pytest.mark.skipif(not CUET_AVAILABLE, reason="cuequivariance_torch is not installed")
#: The same sums in another order, eV, eV/Å and e.
SAME = 1e-10


#: Of MACE's options, and which kernels a model has with them.
KERNELS = {
    ("enable_cueq",): ("cuEquivariance",),
    ("enable_oeq",): ("OpenEquivariance",),
    ("enable_cueq", "enable_oeq"): ("cuEquivariance", "OpenEquivariance"),
}
ALL = [pytest.param(options, marks=needs_cueq if "enable_cueq" in options else ()) for options in KERNELS]


@pytest.fixture(autouse=True)
def open_equivariance(monkeypatch):
    """Where MACE looks for it."""
    installed(monkeypatch)
    import openequivariance

    monkeypatch.setattr(wrapper_ops, "oeq", openequivariance, raising=False)
    for module in (wrapper_ops, convert_e3nn_hybrid):
        monkeypatch.setattr(module, "OEQ_AVAILABLE", True)
    monkeypatch.setitem(accelerated.OPTIONS, "enable_oeq", ("openequivariance", True))


@functools.cache
def converted(options):
    """The contract with its model on other kernels."""

    class Converted(MACEContract):
        def make_model(self, seed=0, dtype=torch.float64):
            return accelerated.accelerated(tiny_mace(seed, dtype), options)

    return Converted()


@pytest.mark.parametrize("options", ALL)
@pytest.mark.parametrize(("pbc", "improper"), [(True, False), (False, True)])
def test_moments_and_forces_of_a_converted_model_turn_with_the_structure(options, pbc, improper):
    contract = converted(options)
    base = contract.model.base
    assert accelerated.backend_of(base) == KERNELS[options]
    assert model.components_first(base) is ("enable_cueq" in options)
    contract.test_energy_is_invariant_and_moments_and_forces_follow(pbc, improper)


@pytest.mark.parametrize("options", [(), *ALL])
def test_the_law_of_rotation_finds_features_that_are_read_in_the_other_layout(options, monkeypatch):
    other = "enable_cueq" not in options
    monkeypatch.setattr(model, "components_first", lambda base: other)
    with pytest.raises(AssertionError):
        converted(options).test_energy_is_invariant_and_moments_and_forces_follow(True, False)


def results_of(found, **options):
    """Energy, forces, stress, charges, latent dipoles and Born charges of a box of water, and the calculator."""
    atoms = waters()
    atoms.calc = LesMACECalculator(found, **options)
    results = [atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()]
    results += [atoms.calc.results[name] for name in ("charges", "latent_dipoles")]
    return [*results, atoms.calc.get_born_effective_charges(atoms)], atoms.calc


@pytest.mark.parametrize("options", ALL)
def test_results_and_checkpoint_are_those_of_the_model_that_was_converted(options):
    own = api.attach(tiny_mace(), {**LONG_RANGE, "total_charge": "conserved"}).eval()
    expected, _ = results_of(own)
    assert TensorProductConv.calls == 0
    found, calculator = results_of(own, **dict.fromkeys(options, True))
    assert (TensorProductConv.calls > 0) is ("enable_oeq" in options)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(theirs).max() > 1e-4
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=SAME)
    its_model = calculator.models[0]
    assert accelerated.backend_of(its_model.base) == KERNELS[options]
    assert accelerated.backend_of(own.base) == ()
    if len(options) > 1:
        with pytest.raises(HostError, match="cuEquivariance and OpenEquivariance: convert it to e3nn"):
            take_apart(its_model)
        return
    state, before = take_apart(its_model), take_apart(own)
    assert state.model == before.model
    assert state.tensors.keys() == before.tensors.keys()
    for name, tensor in before.tensors.items():
        torch.testing.assert_close(state.tensors[name], tensor, rtol=0, atol=1e-12, msg=name)
    assert accelerated.backend_of(rebuild(state).base) == ()


@pytest.mark.parametrize("option", [pytest.param("enable_cueq", marks=needs_cueq), "enable_oeq"])
def test_a_training_on_other_kernels_ends_at_the_same_model(work, option):  # noqa: F811
    ended = {}
    for name, options in {"plain": {}, "converted": {option: True}}.items():
        path = train(write_config(work, LONG_RANGE, correlation=2, name=name, **options))
        found, config = api.load_model(path)
        assert accelerated.backend_of(found.base) == ()
        assert config["metadata"]["training"]["host_options"][option] is bool(options)
        ended[name], _ = results_of(found)
    assert (TensorProductConv.calls > 0) is (option == "enable_oeq")
    untrained, _ = results_of(api.attach(tiny_mace(), LONG_RANGE))
    for ours, theirs, other in zip(ended["converted"], ended["plain"], untrained, strict=True):
        # six steps of Adam, which divides gradients by their size and so keeps the rounding of small ones
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
        assert np.abs(theirs - other).max() > 1e-3


@needs_cueq
@pytest.mark.slow
def test_a_training_on_cuequivariance_alone_ends_with_a_model_in_e3nns_form(work):  # noqa: F811
    path = train(write_config(work, LONG_RANGE, correlation=2, only_cueq=True))
    found, config = api.load_model(path)
    assert accelerated.backend_of(found.base) == ()
    assert config["metadata"]["training"]["host_options"]["only_cueq"] is True
    assert np.isfinite(results_of(found)[0][1]).all()


@pytest.mark.parametrize("option", accelerated.OPTIONS)
def test_kernels_that_are_not_installed_raise_an_error_that_names_them(option, monkeypatch, work):  # noqa: F811
    package = accelerated.OPTIONS[option][0]
    monkeypatch.setitem(accelerated.OPTIONS, option, (package, False))
    with pytest.raises(HostError, match=f"{option}: {package} is not installed"):
        LesMACECalculator(tiny_mace(), **{option: True})
    with pytest.raises(HostError, match=f"{option}: {package} is not installed"):
        train(write_config(work, LONG_RANGE, **{option: True}))


@needs_cueq
def test_what_mace_cannot_convert_raises_an_error():
    with pytest.raises(
        HostError, match=r"MACE cannot convert this model \(enable_cueq\): .*Correlation 1 not supported"
    ):
        accelerated.accelerated(tiny_mace(correlation=1), ("enable_cueq",))
