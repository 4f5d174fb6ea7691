"""Evaluation of a toy calculator: what is compared, how, and what is refused."""

import json

import numpy as np
import pytest
from ase import Atoms
from toy_calculator import CHARGES, CONSTANTS, Toy, labelled, molecule

from les_plugins.data.evaluation import POLARIZABILITY_UNITS, evaluate, known_elements
from les_plugins.data.index_order import rotation_violation
from les_plugins.data.labels import LabelKeys, survey
from les_plugins.errors import DataError, GeometryError
from les_plugins.units import VACUUM_PERMITTIVITY


def frames(count: int = 4, periodic: bool = False) -> list[Atoms]:
    return [labelled(molecule(seed, periodic, ("OHH", "HH")[seed % 2])) for seed in range(count)]


def test_a_calculator_agrees_with_its_own_labels() -> None:
    found = evaluate(Toy(), frames())
    assert list(found.comparisons) == [
        "energy",
        "energy_offset_removed",
        "forces",
        "dipole",
        "polarizability",
        "born_effective_charges",
    ]
    for comparison in found.comparisons.values():
        # all labels are the calculator's own numbers; taking off the fitted constants rounds
        assert comparison.errors()["all", "all"].rmse == pytest.approx(0.0, abs=1e-14)
    assert (found.frames, found.atoms) == (4, 10)


def test_force_errors_are_over_components_and_by_element() -> None:
    atoms = labelled(molecule(0))
    atoms.calc.results["forces"] = atoms.calc.results["forces"] + [[3.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    found = evaluate(Toy(), [atoms]).comparisons["forces"].errors()
    assert found["O", "all"].rmse == pytest.approx(np.sqrt(3.0))
    assert found["H", "all"].rmse == pytest.approx(0.0, abs=1e-14)
    assert found["all", "all"].rmse == pytest.approx(1.0)
    assert found["all", "all"].count == 9


def test_energies_are_per_atom() -> None:
    atoms = labelled(molecule(0))
    atoms.calc.results["energy"] += 0.6
    found = evaluate(Toy(), [atoms])
    assert found.comparisons["energy"].errors()["all", "all"].mae == pytest.approx(0.2)
    assert "energy_offset_removed" not in found.comparisons
    assert "no more frames than constants" in found.skipped["energy_offset_removed"]


def test_another_energy_zero_of_each_element_is_removed_and_the_raw_error_kept() -> None:
    shifted = Toy(constants={1: CONSTANTS[1] + 10.0, 8: CONSTANTS[8] - 400.0})
    found = evaluate(shifted, frames(5)).comparisons
    assert found["energy"].errors()["all", "all"].largest == pytest.approx(380.0 / 3)
    # 1e2 eV in double precision, after a least-squares fit
    assert found["energy_offset_removed"].errors()["all", "all"].largest == pytest.approx(0.0, abs=1e-11)


def test_born_charges_are_read_row_major_and_split_into_diagonal_and_rest() -> None:
    atoms = labelled(molecule(0))
    born = np.array([CHARGES[z] * np.eye(3) for z in atoms.numbers])
    born[0, 0, 1] += 0.9  # dP_x / dr_y of the oxygen
    atoms.calc.results["born_effective_charges"] = born.reshape(3, 9)
    found = evaluate(Toy(), [atoms])
    errors = found.comparisons["born_effective_charges"].errors()
    assert errors["all", "diagonal"].rmse == 0.0
    assert errors["H", "off_diagonal"].rmse == 0.0
    assert errors["O", "off_diagonal"].largest == pytest.approx(0.9)
    assert found.comparisons["born_effective_charges"].reference[1] == pytest.approx(0.9)
    metrics = found.metrics()["born_effective_charges"]
    assert metrics["all"]["r2"] > 0.5  # that charges of O and H differ
    assert metrics["r2_within_elements"]["off_diagonal"] == pytest.approx(-0.2)  # one value of six of O: variance 5/36
    assert metrics["r2_within_elements"]["diagonal"] is None
    turned = evaluate(Toy(), [atoms], born_transposed=True)
    assert turned.comparisons["born_effective_charges"].reference[3] == pytest.approx(0.9)
    halves = evaluate(Toy(), [atoms], born_symmetric=True).comparisons["born_effective_charges"]
    assert halves.reference[[1, 3]] == pytest.approx([0.45, 0.45])
    assert halves.errors()["O", "off_diagonal"].largest == pytest.approx(0.45)


def test_born_charges_in_the_other_order_of_indices_are_found_out_by_turning_the_molecule() -> None:
    """Dipole q(|r_1 − r_0|) (r_2 − r_0) with q = |r_1 − r_0|²: Z* by hand, and not symmetric."""
    atoms = labelled(molecule(0))
    bond, arm = atoms.positions[1] - atoms.positions[0], atoms.positions[2] - atoms.positions[0]
    charge, slope = bond @ bond, 2.0 * np.outer(arm, bond)
    born = np.array([-charge * np.eye(3) - slope, slope, charge * np.eye(3)])
    atoms.calc.results["dipole"] = charge * arm
    assert rotation_violation(atoms, born, charge * arm) == pytest.approx(0.0, abs=1e-24)  # rounding, squared
    turned = born.transpose(0, 2, 1)
    for labels, given, advice in (
        (born, True, "leave out --born-transposed"),
        (turned, False, "give --born-transposed"),
    ):
        atoms.calc.results["born_effective_charges"] = labels
        notes = " ".join(evaluate(Toy(), [atoms], born_transposed=given).notes)
        assert "the other order of indices" in notes
        assert f"; {advice}" in notes
        for options in ({"born_transposed": not given}, {"born_transposed": given, "born_symmetric": True}):
            assert "order of indices" not in " ".join(evaluate(Toy(), [atoms], **options).notes)


def test_the_sum_rule_is_the_mean_over_atoms() -> None:
    atoms = labelled(molecule(0))
    born = np.zeros((3, 3, 3))
    born[0, 2, 2] = 0.3
    atoms.calc.results["born_effective_charges"] = born
    rule = evaluate(Toy(), [atoms]).sum_rule
    assert rule is not None
    assert rule.reference_largest == pytest.approx(0.1)
    assert rule.reference_rms == pytest.approx(0.1 / 3)
    assert rule.predicted_largest == pytest.approx(0.0, abs=1e-15)


def test_born_charges_are_computed_only_where_they_are_compared() -> None:
    toy = Toy()
    found = evaluate(toy, frames(2), born=False)
    assert "born_effective_charges" not in found.comparisons
    assert found.skipped["born_effective_charges"] == "not asked for"
    assert not any("born_effective_charges" in asked for asked in toy.asked)
    evaluate(toy, [labelled(molecule(0), born_effective_charges=None)])
    assert not any("born_effective_charges" in asked for asked in toy.asked[2:])


def test_a_full_stress_is_read_as_voigt() -> None:
    atoms = labelled(molecule(0, periodic=True))
    atoms.calc.results["stress"] = np.array([[0.0, 5.0, 4.0], [5.0, 1.0, 3.0], [4.0, 3.0, 2.0]]) * 0.01
    errors = evaluate(Toy(), [atoms]).comparisons["stress"].errors()
    assert errors["all", "all"].rmse == pytest.approx(0.0, abs=1e-15)
    assert errors["all", "diagonal"].count == errors["all", "off_diagonal"].count == 3


def test_what_has_no_meaning_for_a_boundary_condition_is_skipped_with_the_reason() -> None:
    found = evaluate(Toy(), [labelled(molecule(0, periodic=True)), labelled(molecule(1)), labelled(molecule(2))])
    assert "in 1 of 3 frames" in found.skipped["dipole"]
    assert "quantum" in found.skipped["dipole"]
    assert "in 2 of 3 frames" in found.skipped["stress"]
    assert found.comparisons["dipole"].errors()["all", "all"].count == 6
    assert found.comparisons["stress"].errors()["all", "all"].count == 6
    assert "polarizability" in found.skipped


def test_polarizabilities_are_converted_from_the_unit_of_the_file() -> None:
    atoms = labelled(molecule(0))
    atoms.info["polarizability"] = np.diag([1.0, 2.0, 3.0]).ravel() * 14.399645
    errors = evaluate(Toy(), [atoms], polarizability_unit="A3").comparisons["polarizability"].errors()
    assert errors["all", "all"].largest < 2e-6  # Coulomb's constant has six digits
    assert POLARIZABILITY_UNITS["A3"] / POLARIZABILITY_UNITS["bohr3"] == pytest.approx(1.8897261**3)


def test_polarizabilities_of_crystals_are_compared_with_those_of_the_dielectric_tensor() -> None:
    class Crystal(Toy):
        implemented_properties = [*Toy.implemented_properties, "dielectric_tensor"]  # noqa: RUF012

        def calculate(self, atoms, properties, system_changes) -> None:
            super().calculate(atoms, properties, system_changes)
            self.results["dielectric_tensor"] = np.diag([2.0, 2.5, 3.0])

    atoms = labelled(molecule(0, periodic=True))
    atoms.info["polarizability"] = (VACUUM_PERMITTIVITY * atoms.cell.volume * np.diag([1.0, 1.5, 2.1])).ravel()
    assert "polarizability" in evaluate(Crystal(), [atoms]).skipped
    errors = evaluate(Crystal(), [atoms], crystal_polarizability=True).comparisons["polarizability"].errors()
    wanted = 0.1 * VACUUM_PERMITTIVITY * atoms.cell.volume
    assert errors["all", "all"].largest == pytest.approx(wanted)


def test_a_dipole_that_depends_on_the_origin_is_noted() -> None:
    assert evaluate(Toy(), [labelled(molecule(0))]).notes == []
    (note,) = evaluate(Toy(), [labelled(molecule(0, formula="OH"))]).notes
    assert "0.400 e" in note


def test_reference_names_win_over_results_that_a_program_left_behind() -> None:
    atoms = labelled(molecule(0))
    atoms.info["REF_energy"] = atoms.calc.results["energy"] + 3.0
    found = evaluate(Toy(), [atoms]).comparisons["energy"].errors()
    assert found["all", "all"].mae == pytest.approx(1.0)
    own = evaluate(Toy(), [atoms], keys=LabelKeys.of(energy="energy", forces=None))
    assert own.comparisons["energy"].errors()["all", "all"].mae == 0.0


def test_labels_that_the_model_does_not_predict_are_named() -> None:
    toy = Toy()
    toy.implemented_properties = ["energy", "forces"]
    found = evaluate(toy, frames(3))
    assert found.skipped["dipole"] == "the model does not predict it"
    assert found.skipped["born_effective_charges"] == "the model does not predict it"
    with pytest.raises(DataError, match="nothing to compare"):
        evaluate(toy, [labelled(molecule(0), energy=None, forces=None)])


def test_the_metrics_are_plain_json() -> None:
    table = json.loads(json.dumps(evaluate(Toy(), frames()).metrics(), allow_nan=False))
    assert table["energy"]["unit"] == "eV/atom"
    assert set(table["energy"]["all"]) == {"count", "rmse", "mae", "largest", "r2", "slope"}
    assert set(table["forces"]["by_element"]) == {"H", "O"}
    assert set(table["born_effective_charges"]["by_element"]["O"]) == {"all", "diagonal", "off_diagonal"}
    assert table["born_effective_charges"]["acoustic_sum_rule"]["predicted_rms"] < 1


def test_frames_are_taken_one_at_a_time() -> None:
    toy = Toy()

    def stream():  # type: ignore[no-untyped-def]
        for number, atoms in enumerate(frames(3)):
            assert len(toy.asked) == number
            yield atoms

    assert evaluate(toy, stream()).frames == 3


def test_a_frame_that_the_calculator_refuses_is_named() -> None:
    slab = labelled(molecule(1, periodic=True))
    slab.pbc = (True, True, False)
    with pytest.raises(GeometryError, match=r"x\.xyz, frame 1: no slabs"):
        evaluate(Toy(), [labelled(molecule(0, periodic=True)), slab], source="x.xyz")


def test_predictions_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DataError, match="frame 0: predicted energy holds NaN"):
        evaluate(Toy(constants={1: np.nan, 8: 0.0}), frames(1))


def test_a_survey_counts_labels_and_the_names_they_had() -> None:
    other = molecule(1)
    other.info["REF_energy"] = 1.0
    found = survey([labelled(molecule(0)), other], "x.xyz", LabelKeys(), known_elements=(1, 8))
    assert (found.frames, found.atoms) == (2, 6)
    assert found.labels["energy"] == 2
    assert found.labels["forces"] == 1
    assert found.keys["energy"] == ["energy", "REF_energy"]


def test_the_calculator_says_what_it_knows() -> None:
    assert known_elements(Toy()) == [1, 8]
    assert known_elements(object()) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"energy": np.nan}, r"x\.xyz, frame 1: energy holds NaN"),
        ({"forces": np.full((3, 3), np.inf)}, r"frame 1: forces holds NaN"),
        ({"stress": np.zeros(5)}, r"frame 1: stress has shape \(5,\); expected \(6,\)"),
        ({"energy": "low"}, r"frame 1: energy: expected numbers, got 'low'"),
        ({"born_effective_charges": np.zeros(9)}, r"born_effective_charges has shape"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        survey([labelled(molecule(0)), labelled(molecule(1), **change)], "x.xyz", LabelKeys())


def test_unlabelled_frames_are_refused_with_what_there_is() -> None:
    bare = molecule(0)
    bare.info["MyEnergy"] = 1.0
    with pytest.raises(
        DataError, match=r"unlabelled: no frame has an energy or forces .*found: MyEnergy.*--energy-key"
    ):
        survey([bare], "x.xyz", LabelKeys())
    assert survey([bare], "x.xyz", LabelKeys.of(energy="MyEnergy")).labels == {"energy": 1}
    with pytest.raises(DataError, match=r"no frame has 'Energie' for the energy"):
        survey([labelled(molecule(0))], "x.xyz", LabelKeys.of(energy="Energie"))


def test_unknown_elements_are_named_with_their_frame() -> None:
    with pytest.raises(DataError, match=r"x\.xyz, frame 1: the model does not know Cl; it knows: H, O"):
        survey([labelled(molecule(0)), Atoms("HCl")], "x.xyz", LabelKeys(), known_elements=(1, 8))
