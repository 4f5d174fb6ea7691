"""MACE on the kernels of cuEquivariance: layouts of features, same numbers, training. On its CPU code, where installed.

What OpenEquivariance changes is MACE's convolution alone; its kernels need a GPU, and nothing of it runs here.
"""

import numpy as np
import pytest

pytest.importorskip("mace", reason="mace-torch is not installed: nox -s tests-mace")

import torch
from mace.modules.wrapper_ops import CUET_AVAILABLE
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


class OnCueq(MACEContract):
    """The contract's model, converted."""

    def make_model(self, seed=0, dtype=torch.float64):
        return accelerated.accelerated(tiny_mace(seed, dtype), ("enable_cueq",))


@needs_cueq
@pytest.mark.parametrize(("pbc", "improper"), [(True, False), (False, True)])
def test_moments_and_forces_of_a_converted_model_turn_with_the_structure(pbc, improper):
    contract = OnCueq()
    assert model.components_first(contract.model.base)
    contract.test_energy_is_invariant_and_moments_and_forces_follow(pbc, improper)


@pytest.mark.parametrize("kind", [MACEContract, pytest.param(OnCueq, marks=needs_cueq)])
def test_the_law_of_rotation_finds_features_that_are_read_in_the_other_layout(kind, monkeypatch):
    other = kind is MACEContract
    monkeypatch.setattr(model, "components_first", lambda base: other)
    with pytest.raises(AssertionError):
        kind().test_energy_is_invariant_and_moments_and_forces_follow(True, False)


@needs_cueq
def test_results_and_checkpoint_are_those_of_the_model_that_was_converted():
    own = api.attach(tiny_mace(), {**LONG_RANGE, "total_charge": "conserved"}).eval()
    found = []
    for options in ({}, {"enable_cueq": True}):
        atoms = waters()
        atoms.calc = LesMACECalculator(own, **options)
        results = [atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()]
        results += [atoms.calc.results[name] for name in ("charges", "latent_dipoles")]
        found.append([*results, atoms.calc.get_born_effective_charges(atoms)])
    for ours, expected in zip(found[1], found[0], strict=True):
        assert np.abs(expected).max() > 1e-4
        np.testing.assert_allclose(ours, expected, rtol=0, atol=SAME)
    converted = atoms.calc.models[0]
    assert accelerated.backend_of(converted.base) == ("cuEquivariance",)
    assert accelerated.backend_of(own.base) == ()
    state, expected = take_apart(converted), take_apart(own)
    assert state.model == expected.model
    assert state.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        torch.testing.assert_close(state.tensors[name], tensor, rtol=0, atol=1e-12, msg=name)
    assert accelerated.backend_of(rebuild(state).base) == ()


@needs_cueq
@pytest.mark.parametrize("option", ["enable_cueq", pytest.param("only_cueq", marks=pytest.mark.slow)])
def test_training_on_converted_models_ends_with_one_in_e3nns_form(work, option):  # noqa: F811
    path = train(write_config(work, LONG_RANGE, correlation=2, **{option: True}))
    found, config = api.load_model(path)
    assert accelerated.backend_of(found.base) == ()
    assert config["metadata"]["training"]["host_options"][option] is True
    atoms = waters(2)
    atoms.calc = LesMACECalculator(found)
    assert np.isfinite(atoms.get_forces()).all()


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
