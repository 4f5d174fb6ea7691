"""Files of predictions: everything comes back through ASE, and nothing half-written is left."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
from charged_toys import ChargedToy, ion, toy_energy
from toy_calculator import Toy, labelled, molecule

from les_plugins.data.labels import LabelKeys, labels_of
from les_plugins.data.prediction import write_predictions
from les_plugins.errors import DataError, GeometryError, HostError


def test_predictions_come_back_through_ase(tmp_path: Path) -> None:
    frames = [molecule(0, periodic=True), molecule(1)]
    written = write_predictions(Toy(), frames, tmp_path / "out.xyz", born=True)
    assert written["energy"] == 2
    assert written["stress"] == 1
    back = ase.io.read(tmp_path / "out.xyz", ":")
    for atoms, found in zip(frames, back, strict=True):
        toy = Toy()
        toy.calculate(atoms, ["born_effective_charges"])
        labels = {name: value for name, (_, value) in labels_of(found, LabelKeys(), "out").items()}
        assert found.get_potential_energy() == pytest.approx(toy.results["energy"], rel=1e-15)
        # columns of atoms have eight decimals
        np.testing.assert_allclose(found.get_forces(), toy.results["forces"], atol=1e-8)
        np.testing.assert_allclose(found.get_charges(), toy.results["charges"], atol=1e-8)
        np.testing.assert_allclose(labels["born_effective_charges"], toy.results["born_effective_charges"], atol=1e-8)
        np.testing.assert_allclose(found.get_dipole_moment(), toy.results["dipole"], rtol=1e-15)
        np.testing.assert_allclose(found.info["polarizability"], toy.results["polarizability"], rtol=1e-15)
    np.testing.assert_allclose(back[0].get_stress(), 0.01 * np.arange(6.0), rtol=1e-15)
    assert "stress" not in back[1].calc.results


def test_old_labels_make_room_and_other_facts_stay(tmp_path: Path) -> None:
    atoms = labelled(molecule(0), energy=17.0, born_effective_charges=np.ones((3, 3, 3)))
    atoms.info["REF_energy"], atoms.info["note"] = 17.0, "kept"
    write_predictions(Toy(), [atoms], tmp_path / "out.xyz")
    found = ase.io.read(tmp_path / "out.xyz")
    assert found.get_potential_energy() < 0
    assert found.info["REF_energy"] == 17.0
    assert found.info["note"] == "kept"
    assert "born_effective_charges" not in found.calc.results
    assert "born_effective_charges" not in found.arrays


def test_a_frame_has_the_total_charge_that_it_was_evaluated_with(tmp_path: Path) -> None:
    calculator, frames = ChargedToy(), [ion(-1), ion()]
    calculator.total_charge = 1.0
    write_predictions(calculator, frames, tmp_path / "out.xyz")
    back = ase.io.read(tmp_path / "out.xyz", ":")
    assert [found.info["charge"] for found in back] == [-1, 1]
    for found in back:
        charge = float(found.info["charge"])
        assert found.get_potential_energy() == pytest.approx(toy_energy(ion(), charge), rel=1e-13)


def test_a_run_that_fails_leaves_no_file(tmp_path: Path) -> None:
    slab = molecule(1, periodic=True)
    slab.pbc = (True, True, False)
    with pytest.raises(GeometryError, match=r"in\.xyz, frame 1: no slabs"):
        write_predictions(Toy(), [molecule(0), slab], tmp_path / "out.xyz", "in.xyz")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_leaves_an_older_file_as_it_was(tmp_path: Path) -> None:
    output = tmp_path / "out.xyz"
    write_predictions(Toy(), [molecule(0)], output)
    before = output.read_bytes()
    with pytest.raises(DataError, match="holds NaN"):
        write_predictions(Toy(constants={1: np.nan, 8: 0.0}), [molecule(0)], output)
    assert output.read_bytes() == before
    assert list(tmp_path.iterdir()) == [output]


def test_outputs_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        write_predictions(Toy(), [molecule(0)], tmp_path / "missing" / "out.xyz")
    (tmp_path / "folder.xyz").mkdir()
    with pytest.raises(DataError, match="it is a folder"):
        write_predictions(Toy(), [molecule(0)], tmp_path / "folder.xyz")


def test_born_charges_of_a_model_without_them_are_refused(tmp_path: Path) -> None:
    toy = Toy()
    toy.implemented_properties = ["energy", "forces"]
    with pytest.raises(HostError, match="no long-range part"):
        write_predictions(toy, [molecule(0)], tmp_path / "out.xyz", born=True)
    assert write_predictions(toy, [molecule(0)], tmp_path / "out.xyz") == {"energy": 1, "forces": 1}
