"""The calculator of several models: means, standard deviations, and what is no committee."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lj import LennardJones
from toy_calculator import Toy, labelled, molecule

from les_plugins.committee import Committee
from les_plugins.crystals.piezoelectric import piezoelectric_tensor
from les_plugins.data.evaluation import evaluate
from les_plugins.errors import ConfigError, HostError, LesPluginsWarning
from les_plugins.plots.charge_map import charge_map
from les_plugins.plots.viewer import dataset
from les_plugins.spectra.planar import moments_of

#: Of the members, eV/Å².
SPRINGS = (0.2, 0.3, 0.7)


@pytest.fixture
def committee() -> Committee:
    return Committee([Toy(spring=spring) for spring in SPRINGS], ["soft", "middle", "stiff"])


def test_results_are_means_and_standard_deviations(committee: Committee) -> None:
    atoms = molecule(1)
    atoms.calc = committee
    mean, std = np.mean(SPRINGS), np.std(SPRINGS, ddof=1)
    np.testing.assert_allclose(atoms.get_forces(), -mean * atoms.positions, rtol=1e-14)
    np.testing.assert_allclose(committee.results["forces_std"], std * np.abs(atoms.positions), rtol=1e-14)
    squares = 0.5 * (atoms.positions**2).sum()
    assert committee.results["energy_std"] == pytest.approx(std * squares, rel=1e-13)  # of sums of four numbers
    assert atoms.get_potential_energy() == pytest.approx(-7.0 + mean * squares, rel=1e-13)


def test_a_property_of_one_derivative_is_asked_of_every_member(committee: Committee) -> None:
    atoms = molecule(1)
    born = committee.get_property("born_effective_charges", atoms)
    np.testing.assert_allclose(born[0], -0.8 * np.eye(3), rtol=1e-14)
    spread = committee.get_property("born_effective_charges_std", atoms)
    np.testing.assert_allclose(spread, 0.0, atol=1e-15)  # rounding of a mean of three equal numbers
    assert all("born_effective_charges" in member.asked[-1] for member in committee.members)


def test_ases_writer_takes_a_committees_results(committee: Committee, tmp_path: Path) -> None:
    atoms = molecule(1)
    atoms.calc = committee
    committee.calculate(atoms, ["forces", "born_effective_charges"])
    ase.io.write(tmp_path / "out.xyz", atoms)
    np.testing.assert_allclose(ase.io.read(tmp_path / "out.xyz").get_forces(), atoms.get_forces(), atol=1e-8)


def test_forces_are_the_derivative_of_the_energy(committee: Committee) -> None:
    atoms, step = molecule(2), 1e-4
    atoms.calc = committee
    forces = atoms.get_forces()
    energies = []
    for shift in (step, -step):
        moved = atoms.copy()
        moved.positions[1, 2] += shift
        moved.calc = committee
        energies.append(moved.get_potential_energy())
    difference = (energies[1] - energies[0]) / (2 * step)
    assert forces[1, 2] == pytest.approx(difference, abs=1e-9)  # rounding of energies of 10 eV over the step


def test_what_only_some_members_know_is_not_offered() -> None:
    short = Toy()
    short.implemented_properties = ["energy", "forces"]
    committee = Committee([Toy(), short])
    assert "charges" not in committee.implemented_properties
    assert "charges_std" not in committee.implemented_properties
    assert {"forces", "forces_std"} <= set(committee.implemented_properties)


def test_elements_are_those_that_all_members_know_and_other_systems_are_told() -> None:
    other, many = Toy(), Toy()
    other.known_elements, many.known_elements = (8, 14), tuple(range(1, 90))
    with pytest.warns(LesPluginsWarning, match=r"water H, O; quartz O, Si\): they have O in common"):
        assert Committee([Toy(), other], ["water", "quartz"]).known_elements == [8]
    assert Committee([Toy(), many]).known_elements == [1, 8]  # a foundation model knows more: no warning
    other.known_elements = (14,)
    with pytest.raises(HostError, match="no element in common"):
        Committee([Toy(), other])


def test_calculators_without_les_plugins_make_a_committee() -> None:
    members = [LennardJones(sigma=2.0, epsilon=epsilon, rc=5.0) for epsilon in (0.1, 0.3)]
    atoms = Atoms("Ar2", [[0, 0, 0], [0, 0, 2.5]])
    atoms.calc = committee = Committee(members)
    energies = [member.get_potential_energy(atoms) for member in members]
    assert atoms.get_potential_energy() == pytest.approx(np.mean(energies), rel=1e-13)
    assert committee.results["energy_std"] == pytest.approx(np.std(energies, ddof=1), rel=1e-13)
    assert committee.known_elements is None
    assert committee.epsilon_infinity == 1.0  # nothing is scaled


class Scaled(Toy):
    """A toy with a long-range part, by its own account."""

    has_long_range = True

    def __init__(self, epsilon_infinity: float, spring: float = 0.3) -> None:
        super().__init__(spring=spring)
        self.epsilon_infinity = epsilon_infinity


def test_members_whose_results_are_scaled_differently_are_told_with_the_first_crystal() -> None:
    committee = Committee([Scaled(1.78), Scaled(5.0)], ["water", "other"])
    committee.calculate(molecule(1))  # nothing is scaled
    with pytest.warns(LesPluginsWarning, match=r"ε_∞ .* differs \(water 1.78, other 5\)"):
        committee.calculate(molecule(1, periodic=True))
    committee.calculate(molecule(2, periodic=True))  # once
    given = Committee([Scaled(1.78), Scaled(5.0)])
    given.epsilon_infinity = 2.0
    given.calculate(molecule(1, periodic=True))
    Committee([Scaled(1.78), Scaled(1.80)]).calculate(molecule(1, periodic=True))  # Z* within half a per cent


class Turned(Toy):
    """Z* with off-diagonal elements of opposite signs, which symmetric parts do not have."""

    def calculate(self, atoms: Atoms, properties: Sequence[str] = (), system_changes: Sequence[str] = ()) -> None:  # type: ignore[override]
        super().calculate(atoms, properties, system_changes)
        if "born_effective_charges" in self.results:
            born = self.results["born_effective_charges"]
            born[:, 0, 1] += self.spring
            born[:, 1, 0] -= self.spring
            born[:, 2, 2] += self.spring


def test_the_spread_of_symmetric_parts_is_that_of_the_members_symmetric_parts() -> None:
    frames = [labelled(molecule(seed), Toy()) for seed in range(2)]
    found = evaluate(Committee([Turned(spring=0.2), Turned(spring=0.4)]), frames, born_symmetric=True)
    spread = found.calibrations["born_effective_charges"].spread
    # one of nine components differs, the diagonal one
    np.testing.assert_allclose(spread, np.std([0.2, 0.4], ddof=1) / 3, rtol=1e-12)


def test_what_reads_moments_within_a_model_refuses_a_committee() -> None:
    committee = Committee([Scaled(1.0), Scaled(1.0)], ["one", "two"])
    crystal = molecule(1, periodic=True)
    for read in (
        lambda: dataset(committee, [crystal], "both"),
        lambda: charge_map(committee, crystal),
        lambda: moments_of(committee),
        lambda: piezoelectric_tensor(committee, crystal),
    ):
        with pytest.raises(HostError, match=r"reads the moments within a model.*: one, two"):
            read()


def test_one_model_is_no_committee() -> None:
    with pytest.raises(ConfigError, match="at least two"):
        Committee([Toy()])


def test_members_read_a_total_charge_all_or_none() -> None:
    charged = Toy()
    charged.takes_total_charge = True
    with pytest.raises(HostError, match="charged take a total charge and neutral not"):
        Committee([charged, Toy()], ["charged", "neutral"])


def test_evaluation_puts_errors_beside_the_spread(committee: Committee) -> None:
    frames = [labelled(molecule(seed), Toy(spring=0.5)) for seed in range(6)]
    found = evaluate(committee, frames)
    calibration = found.calibrations["forces"]
    lengths = np.concatenate([np.sqrt((atoms.positions**2).mean(1)) for atoms in frames])
    np.testing.assert_allclose(calibration.error, 0.1 * lengths, rtol=1e-12)
    np.testing.assert_allclose(calibration.spread, np.std(SPRINGS, ddof=1) * lengths, rtol=1e-12)
    assert calibration.factor == pytest.approx(0.1 / np.std(SPRINGS, ddof=1), rel=1e-12)
    assert calibration.rank_correlation == pytest.approx(1.0, abs=1e-12)
    assert found.metrics()["forces"]["committee"]["count"] == 18
    assert found.metrics()["energy"]["committee"]["count"] == 6


def test_a_single_model_has_no_calibration() -> None:
    found = evaluate(Toy(), [labelled(molecule(1), Toy(spring=0.5))])
    assert not found.calibrations
    assert "committee" not in found.metrics()["forces"]
