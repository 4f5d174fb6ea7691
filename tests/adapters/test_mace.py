"""The MACE adapter: what is MACE's own, beyond the contract (test_mace_contract.py)."""

import inspect
import warnings

import numpy as np
import pytest

pytest.importorskip("mace", reason="mace-torch is not installed: nox -s tests-mace")

import torch
from ase import Atoms
from mace.cli import run_train
from mace_models import amplify, batch_of, tiny_mace, waters
from scipy.spatial.transform import Rotation

import les_plugins
from les_plugins.adapters.mace import graphs
from les_plugins.adapters.mace.calculator import LesMACECalculator
from les_plugins.adapters.mace.model import LongRangeMACE
from les_plugins.errors import ConfigError, DataError, DeviceError, HostError, LesPluginsWarning

FULL = {"response": {"charge": True, "dipole": "anisotropic"}}
#: Rounding of a few thousand float64 operations.
ROUNDING = 1e-11


def long_range_model(config=FULL, **options) -> LongRangeMACE:
    return amplify(les_plugins.attach(tiny_mace(**options), config))


def energy(model, atoms: Atoms) -> float:
    return model(batch_of([atoms]), compute_force=False)["energy"].item()


@pytest.fixture(scope="module")
def model() -> LongRangeMACE:
    return long_range_model()


def test_zero_init_starts_exactly_at_maces_predictions_and_can_leave_them():
    model = les_plugins.attach(tiny_mace(), {**FULL, "zero_init": True})
    atoms = waters()
    assert energy(model, atoms) == tiny_mace()(batch_of([atoms]))["energy"].item()
    optimizer = torch.optim.Adam(model.les_readouts.parameters(), lr=0.05)
    for _ in range(5):
        optimizer.zero_grad()
        model(batch_of([atoms]), training=True)["energy"].sum().backward()  # lower is better: the coupling must grow
        optimizer.step()
    assert model(batch_of([atoms]))["long_range_energy"].abs().item() > 1e-8


def test_a_one_layer_model_gets_edge_heads_and_refuses_equivariant_ones():
    model = long_range_model(FULL, num_interactions=1)
    output = model(batch_of([waters()]))
    assert output["latent"].permanent.dipole.abs().max().item() > 0
    with pytest.raises(ConfigError, match="vector"):
        les_plugins.attach(tiny_mace(num_interactions=1), {"heads": "equivariant"})


def test_two_e_features_are_read_in_e3nns_order():
    model = long_range_model(FULL, hidden_irreps="4x0e+4x1o+4x2e")
    atoms = waters(pbc=False)
    rotation = Rotation.from_euler("xyz", [0.2, 0.7, -0.5]).as_matrix()
    turned = atoms.copy()
    turned.positions = atoms.positions @ rotation.T
    turn = torch.tensor(rotation)
    before, after = (model(batch_of([frame]))["latent"].permanent.quadrupole for frame in (atoms, turned))
    assert before.abs().max().item() > 1e-4
    torch.testing.assert_close(after, turn @ before @ turn.T, rtol=0, atol=1e-11)


def test_hessian_is_the_derivative_of_the_forces(model):
    atoms = waters(2)
    hessian = model(batch_of([atoms]), compute_hessian=True)["hessian"].view(len(atoms), 3, len(atoms), 3)
    step, forces = 1e-4, []
    for shift in (-step, step):
        moved = atoms.copy()
        moved.positions[1, 0] += shift
        forces.append(model(batch_of([moved]))["forces"])
    difference = -(forces[1] - forces[0]) / (2 * step)
    # central difference: step² times the fourth derivative of the energy
    torch.testing.assert_close(hessian[1, 0], difference, rtol=0, atol=1e-5 * hessian.abs().max().item())


def test_lammps_edge_forces_and_second_attachment_raise_an_error(model):
    with pytest.raises(HostError, match="ML-IAP"):
        model(batch_of([waters()]), lammps_mliap=True)
    with pytest.raises(HostError, match="edge forces"):
        model(batch_of([waters()]), compute_edge_forces=True)
    with pytest.raises(HostError, match="already"):
        LongRangeMACE(model, model.long_range.config)
    with pytest.raises(HostError, match="no adapter knows"):
        les_plugins.attach(torch.nn.Linear(2, 2), FULL)


def test_canary_maces_run_still_configures_its_model_through_the_one_name_that_is_substituted():
    source = inspect.getsource(run_train.run)
    assert source.count("configure_model(") == 1
    assert list(inspect.signature(run_train.configure_model).parameters)[:2] == ["args", "train_loader"]
    assert inspect.getmodule(run_train.configure_model).__name__ == "mace.tools.model_script_utils"


def test_canary_maces_optimizer_trains_every_parameter_of_the_long_range_part(model):
    from mace.tools import build_default_arg_parser
    from mace.tools.scripts_utils import get_params_options

    options = get_params_options(build_default_arg_parser().parse_args(["--name", "test"]), model)
    trained = {id(parameter) for group in options["params"] for parameter in group["params"]}
    assert all(id(parameter) in trained for parameter in model.les_readouts.parameters())


class TestCalculator:
    def test_results_agree_with_the_model(self, model):
        atoms = waters()
        atoms.calc = LesMACECalculator(model)
        output = model(batch_of([atoms]), compute_stress=True)
        assert atoms.get_potential_energy() == pytest.approx(output["energy"].item(), rel=1e-14)
        np.testing.assert_allclose(atoms.get_forces(), output["forces"].numpy(), atol=1e-12)
        np.testing.assert_allclose(atoms.get_stress(voigt=False), output["stress"][0].numpy(), atol=1e-12)
        assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy(), rel=1e-12)
        results = atoms.calc.results
        assert results["energy"] == pytest.approx(results["short_range_energy"] + results["long_range_energy"])
        assert results["charges"].shape == (12,)
        assert results["dipole"].shape == (3,)
        assert results["polarizability"].shape == (3, 3)

    def test_physical_moments_carry_the_root_of_the_screening(self, model):
        atoms = waters()
        plain, screened = LesMACECalculator(model), LesMACECalculator(model, epsilon_infinity=4.0)
        for name, factor in (
            ("charges", 2.0),
            ("dipole", 2.0),
            ("born_effective_charges", 2.0),
            ("polarizability", 4.0),
        ):
            np.testing.assert_allclose(
                screened.get_property(name, atoms), factor * plain.get_property(name, atoms), rtol=1e-10
            )

    def test_open_structures_are_in_vacuum_whatever_epsilon_is(self, model):
        atoms = waters(pbc=False)
        a, b = LesMACECalculator(model), LesMACECalculator(model, epsilon_infinity=4.0)
        np.testing.assert_array_equal(a.get_property("dipole", atoms), b.get_property("dipole", atoms))

    def test_a_short_range_model_says_that_it_has_no_electrostatics(self):
        from ase.calculators.calculator import PropertyNotImplementedError

        calculator = LesMACECalculator(tiny_mace())
        atoms = waters()
        assert calculator.get_property("long_range_energy", atoms) == 0.0
        with pytest.raises(PropertyNotImplementedError, match="no long-range part"):
            calculator.get_property("born_effective_charges", atoms)

    def test_wrong_structures_and_devices_raise_an_error(self, model):
        calculator = LesMACECalculator(model)
        foreign = waters()
        foreign.numbers[0] = 6
        with pytest.raises(DataError, match="does not know C; it knows: H, O"):
            calculator.get_potential_energy(foreign)
        broken = waters()
        broken.positions[0, 0] = np.nan
        with pytest.raises(DataError, match="NaN"):
            calculator.get_potential_energy(broken)
        flat = waters()
        flat.cell[2] = flat.cell[1]
        with pytest.raises(DataError, match="singular"):
            calculator.get_potential_energy(flat)
        if not torch.cuda.is_available():
            with pytest.raises(DeviceError, match="cuda"):
                LesMACECalculator(model, device="cuda")

    def test_making_a_calculator_leaves_maces_property_list_alone(self, model):
        before = list(type(LesMACECalculator(model)).implemented_properties)
        LesMACECalculator(model)
        assert list(LesMACECalculator.implemented_properties) == before
        assert "charges" not in LesMACECalculator.implemented_properties


@pytest.mark.parametrize("charge", ["1", "abc", np.array([2]), np.array([1, 2]), None])
def test_a_charge_of_any_kind_that_the_model_does_not_read_changes_nothing(model, charge):
    """MACE makes a tensor of it before any layer is asked whether it reads it."""
    calculator, atoms = LesMACECalculator(model), waters()
    expected = calculator.get_property("energy", atoms)
    for key in ("charge", "external_field"):
        atoms.info[key] = charge
    atoms.info["spin"] = np.array([1])  # of a closed shell; others are refused
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LesPluginsWarning)
        assert calculator.get_property("energy", atoms) == expected
        calculator.reset()
        assert calculator.get_property("energy", atoms) == expected
        np.testing.assert_allclose(calculator.evaluate_batch([atoms]).energy, [expected], rtol=ROUNDING)
    assert "charge" in atoms.info


@pytest.mark.parametrize("pbc", [True, False], ids=["periodic", "open"])
def test_the_graph_of_one_structure_is_maces_batch_of_one(pbc):
    atoms = waters(pbc=pbc)
    atoms.info["charge"] = 1.5
    calculator = LesMACECalculator(les_plugins.attach(tiny_mace(), {"total_charge": "given"}))
    ours = calculator._atoms_to_batch(atoms)
    theirs = graphs.batch_of([calculator._read(atoms)], *calculator._graph_settings())
    expected = {name: value for name, value in theirs.to_dict().items() if value is not None}
    assert ours.to_dict().keys() == expected.keys()
    assert set(ours.keys) == set(theirs.keys)
    for name, value in expected.items():
        assert torch.equal(ours[name], value), name
        assert ours[name].dtype == value.dtype, name
    copied = ours.clone()
    copied["positions"] += 1.0
    assert torch.equal(ours["positions"], theirs["positions"])


@pytest.mark.parametrize("pbc", [True, False], ids=["periodic", "open"])
def test_flags_of_all_structures_of_a_batch_may_be_given_once_as_torch_sim_does(model, pbc):
    batch = batch_of([waters(1, pbc=pbc), waters(2, pbc=pbc), waters(3, pbc=pbc)])
    expected = model(dict(batch))["energy"]
    for once in (pbc, torch.full((3,), pbc)):
        assert torch.equal(model({**batch, "pbc": once})["energy"], expected)
