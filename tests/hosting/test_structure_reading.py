"""Every calculator gives the results of the total charge that a structure has now, wherever it stands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from charged_toys import ChargedToy, TinyIons, ion, toy_energy
from toy_calculator import Toy

from les_plugins.committee import Committee, RemoteCalculator, remote
from les_plugins.data.copies import repeated, said_of_charge_and_spin
from les_plugins.data.given_charge import charge_read, charge_to_keep, refuse_charge_of_engine
from les_plugins.errors import ConfigError, DataError, HostError

#: Energies of 10 eV, of the same arithmetic.
SAME = {"rel": 1e-13, "abs": 1e-13}


@pytest.fixture(scope="module")
def process() -> Iterator[RemoteCalculator]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "WORKER", "toy_worker")
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        found = RemoteCalculator(sys.executable, "charged 0.3")
        yield found
        found.close()


@pytest.fixture(params=["model", "committee", "remote", "committee with a remote"])
def calculator(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "model":
        yield TinyIons()
        return
    if request.param == "committee":
        yield Committee([ChargedToy(), ChargedToy(spring=0.5)])
        return
    there = request.getfixturevalue("process")
    yield there if request.param == "remote" else Committee([ChargedToy(), there])
    there.total_charge = None


@pytest.fixture
def expected(calculator: Any) -> Callable[[float], float]:
    """The energy of `ion()` with some charge, evaluated for itself."""
    if isinstance(calculator, TinyIons):
        fresh = TinyIons()
        return lambda charge: float(fresh.evaluate_batch([ion(charge)]).energy[0])
    springs = [member.spring for member in getattr(calculator, "members", ()) if isinstance(member, Toy)] or [0.3]
    springs += [0.3] * (len(getattr(calculator, "members", springs)) - len(springs))
    return lambda charge: float(np.mean([toy_energy(ion(), charge, spring) for spring in springs]))


def test_a_charge_that_changes_on_the_same_atoms_is_seen(calculator: Any, expected: Callable[[float], float]) -> None:
    atoms = ion()
    atoms.calc = calculator
    neutral = atoms.get_potential_energy()
    assert neutral == pytest.approx(expected(0.0), **SAME)
    for charge in (1, -1, 0.5):
        atoms.info["charge"] = charge
        assert atoms.get_potential_energy() == pytest.approx(expected(charge), **SAME)
        assert abs(expected(charge) - neutral) > 1e-3
        assert atoms.calc.get_property("charges", atoms).sum() == pytest.approx(charge, abs=1e-12)
    del atoms.info["charge"]
    assert atoms.get_potential_energy() == pytest.approx(neutral, **SAME)


def test_a_charge_that_changes_in_place_is_seen(calculator: Any, expected: Callable[[float], float]) -> None:
    charge = np.array(0.0)
    atoms = ion(charge)
    atoms.calc = calculator
    assert atoms.get_potential_energy() == pytest.approx(expected(0.0), **SAME)
    charge += 1.0
    assert atoms.get_potential_energy() == pytest.approx(expected(1.0), **SAME)


@pytest.mark.parametrize(
    "charge", [np.int64(-1), np.float32(-1), np.array(-1), np.array([-1.0]), -1], ids=lambda value: type(value).__name__
)
def test_a_charge_is_read_of_whatever_kind_of_number(
    charge: Any, calculator: Any, expected: Callable[[float], float]
) -> None:
    assert calculator.get_property("energy", ion(charge)) == pytest.approx(expected(-1.0), **SAME)
    other = ion(seed=2, total_charge=charge)
    assert calculator.get_property("charges", other).sum() == pytest.approx(-1.0, abs=1e-12)


def test_the_calculator_s_own_charge_is_that_of_structures_which_bring_none(
    calculator: Any, expected: Callable[[float], float]
) -> None:
    atoms = ion()
    atoms.calc = calculator
    atoms.get_potential_energy()
    calculator.total_charge = 1
    assert calculator.total_charge == 1.0
    assert atoms.get_potential_energy() == pytest.approx(expected(1.0), **SAME)
    assert charge_read(calculator, atoms) == 1.0
    assert charge_to_keep(calculator, atoms) == {"charge": 1.0}
    refuse_charge_of_engine(ion(1), calculator, "OpenMM")
    with pytest.raises(DataError, match="whose total_charge is 1"):
        refuse_charge_of_engine(ion(-1), calculator, "OpenMM")
    atoms.info["charge"] = -1
    assert atoms.get_potential_energy() == pytest.approx(expected(-1.0), **SAME)
    calculator.total_charge = None
    assert calculator.get_property("energy", ion()) == pytest.approx(expected(0.0), **SAME)
    with pytest.raises(ConfigError, match="total_charge is 'plus'"):
        calculator.total_charge = "plus"


def test_what_is_no_charge_is_an_error_and_leaves_no_results(
    calculator: Any, expected: Callable[[float], float]
) -> None:
    atoms = ion()
    calculator.get_property("energy", atoms)
    for wrong in ("plus", [0.4, -0.4], 1j, np.nan):
        atoms.info["charge"] = wrong
        with pytest.raises(DataError, match=r"info\['charge'\] is"):
            calculator.get_property("energy", atoms)
        with pytest.raises(DataError, match=r"info\['charge'\] is"):
            calculator.calculate(atoms)
        assert not calculator.results
    atoms.info["charge"] = 1
    assert calculator.get_property("energy", atoms) == pytest.approx(expected(1.0), **SAME)


def test_the_current_is_that_of_the_present_charge(process: RemoteCalculator) -> None:
    atoms, velocities = ion(), np.arange(9.0).reshape(3, 3)
    for calculator in (process, Committee([ChargedToy(), process])):
        before = calculator.current(velocities, atoms)
        atoms.info["charge"] = 1
        # a charge spread evenly moves with the mean velocity
        np.testing.assert_allclose(calculator.current(velocities, atoms) - before, velocities.mean(0), rtol=1e-13)
        del atoms.info["charge"]


def test_results_of_another_epsilon_infinity_are_not_kept(process: RemoteCalculator) -> None:
    for calculator in (process, Committee([ChargedToy(), process])):
        calculator.get_property("energy", ion())
        calculator.epsilon_infinity = 1.0
        assert not calculator.results


def test_an_evaluation_that_fails_leaves_no_results_of_the_structure_before(process: RemoteCalculator) -> None:
    slab = ion()
    slab.cell, slab.pbc = np.eye(3) * 6.0, [True, True, False]
    for calculator in (process, Committee([ChargedToy(), process])):
        calculator.get_property("energy", ion())
        for _ in range(2):
            with pytest.raises(Exception, match="no slabs"):
                calculator.get_property("energy", slab)
        assert not calculator.results


def test_members_of_a_committee_that_read_different_charges_are_an_error() -> None:
    first, second = ChargedToy(), ChargedToy()
    committee = Committee([first, second], ["first", "second"])
    second.total_charge = 1.0
    with pytest.raises(DataError, match="different total charges: first 0 e, second 1 e"):
        committee.get_property("energy", ion())
    with pytest.raises(HostError, match="first None, second 1"):
        committee.total_charge  # noqa: B018 (a property)
    committee.total_charge = -1.0
    assert second.total_charge == -1.0
    assert committee.get_property("energy", ion()) == pytest.approx(toy_energy(ion(), -1.0), **SAME)


def test_a_charge_or_field_that_nobody_would_read_cannot_be_set() -> None:
    committee = Committee([Toy(), Toy()])
    with pytest.raises(HostError, match="this model does not read total charges"):
        committee.total_charge = 1.0
    assert committee.total_charge is None
    with pytest.raises(HostError, match="external_field: this calculator takes none"):
        committee.external_field = [0.0, 0.0, 0.1]


def test_a_third_name_is_that_of_the_training_data() -> None:
    metadata = {"metadata": {"training": {"total_charge_key": "Q"}}}
    calculator, plain = TinyIons(metadata), TinyIons()
    expected = plain.get_property("energy", ion(-1))
    assert calculator.get_property("energy", ion(Q=np.int64(-1))) == pytest.approx(expected, **SAME)
    assert calculator.get_property("energy", ion(-1)) == pytest.approx(expected, **SAME)
    with pytest.raises(DataError, match=r"info\['charge'\] = 1 and info\['Q'\] = -1 are two total charges"):
        calculator.get_property("energy", ion(1, Q=-1))
    atoms = ion(Q=-1)
    atoms.set_initial_charges([-1.0, 0.0, 0.0])
    calculator.get_property("energy", atoms)  # warnings are errors: the initial charges are not missed
    assert charge_to_keep(calculator, atoms) == {"charge": -1.0}


def test_what_the_model_does_not_read_is_said_in_a_process_of_its_own_too(process: RemoteCalculator) -> None:
    for _ in range(2):
        with pytest.raises(DataError, match=r"info\['spin'\] = 3, a spin, which this model does not read"):
            process.get_property("energy", ion(seed=4, spin=np.int64(3)))
    process.get_property("energy", ion(seed=3, spin=np.int64(1)))  # warnings are errors


def test_another_epsilon_infinity_than_that_of_the_training_is_an_error_of_a_model_that_reads_charges() -> None:
    calculator = TinyIons(epsilon_infinity=1.78)
    assert calculator.epsilon_infinity == 1.78
    calculator.epsilon_infinity = 1.78
    with pytest.raises(ConfigError, match=r"epsilon_infinity is 4; allowed: 1.78, which is in the weights"):
        calculator.epsilon_infinity = 4.0
    with pytest.raises(ConfigError, match=r"reference_susceptibility is 0.3; allowed: 0, which is in the weights"):
        calculator.reference_susceptibility = 0.3
    free = TinyIons(total_charge="free", epsilon_infinity=1.78)
    free.epsilon_infinity = 4.0
    assert free.epsilon_infinity == 4.0


def test_copies_keep_the_charge_and_a_supercell_has_that_of_its_cells() -> None:
    atoms = ion(-1, spin=2, energy=3.0)
    assert said_of_charge_and_spin(atoms) == {"charge": -1, "spin": 2}
    assert said_of_charge_and_spin(ion(Charge=1)) == {"Charge": 1}  # an error of whoever reads it, and not neutral
    atoms.cell, atoms.pbc = np.eye(3) * 6.0, True
    assert repeated(atoms, (2, 1, 3)).info["charge"] == -6.0
    assert len(repeated(atoms, (2, 1, 3))) == 18
    assert "charge" not in repeated(ion(), (1, 1, 1)).info
