"""Labels of charged structures are those of their charge, whichever way they were made; files say the charge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from charged_toys import ChargedToy, ion, toy_energy
from toy_calculator import Toy

from les_plugins.distillation.displacements import of_atoms_in_molecules, with_waves
from les_plugins.distillation.energies import isolated_atoms
from les_plugins.distillation.growth import Growth
from les_plugins.distillation.job import Distillation, distill
from les_plugins.distillation.labelling import key_of, label_frames
from les_plugins.distillation.teachers import Teacher
from les_plugins.errors import DataError


def model(name: str = "toy", calculator: Any = None) -> Teacher:
    return Teacher(name, calculator or ChargedToy(), "1", None, "MIT", (1, 8))


def water(charge: float | None = None, seed: int = 1, **info: Any) -> Atoms:
    """A molecule with its atoms where they belong."""
    positions = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
    atoms = Atoms("OHH", positions + 0.01 * np.random.default_rng(seed).normal(size=(3, 3)))
    atoms.info.update(info if charge is None else {"charge": charge, **info})
    return atoms


def test_labels_are_those_of_the_charge_that_a_structure_brings(tmp_path: Path) -> None:
    starts = [water(-1, seed=1), water(seed=2), water(seed=3, total_charge=1)]
    ase.io.write(tmp_path / "ions.xyz", starts)
    distill(Distillation(model(), [tmp_path / "ions.xyz"], tmp_path / "out.xyz"))
    found = ase.io.read(tmp_path / "out.xyz", ":")
    assert [atoms.info["charge"] for atoms in found] == [-1.0, 0.0, 1.0]
    for atoms in found:
        # the file has eight decimals of positions
        assert atoms.get_potential_energy() == pytest.approx(toy_energy(atoms, atoms.info["charge"]), abs=1e-6)


def test_candidates_grown_from_an_ion_are_ions(tmp_path: Path) -> None:
    growth = Growth.of(frames=4, candidates=2, timestep=0.2, interval=2, warm_up=2, rattled=0.5, strain=0.0)
    calculator = ChargedToy()
    ase.io.write(tmp_path / "ions.xyz", [water(-1, spin=2), water(seed=2)])
    calculator.total_charge = 1.0  # of the second
    distill(Distillation(model(calculator=calculator), [tmp_path / "ions.xyz"], tmp_path / "out.xyz", growth))
    found = ase.io.read(tmp_path / "out.xyz", ":")
    assert {float(atoms.info["charge"]) for atoms in found} == {-1.0, 1.0}
    for atoms in found:
        assert (atoms.info["charge"] == -1.0) == (atoms.info.get("spin") == 2)
        assert atoms.get_potential_energy() == pytest.approx(toy_energy(atoms, atoms.info["charge"]), abs=1e-6)


def test_a_cell_doubled_for_a_wave_has_twice_the_charge() -> None:
    atoms = water(-1)
    atoms.cell, atoms.pbc = np.eye(3) * 8.0, True
    new = with_waves(atoms, np.random.default_rng(0), of_atoms_in_molecules(0.0), 0.0, 0.1)
    assert (len(new), new.info["charge"]) == (6, -2.0)


def test_isolated_atoms_are_neutral_whatever_the_calculator_s_own_charge_is() -> None:
    calculator = ChargedToy()
    expected = isolated_atoms(model(), [1, 8])
    calculator.total_charge = 1.0
    assert isolated_atoms(model(calculator=calculator), [1, 8]) == expected


def test_models_that_read_different_charges_are_an_error(tmp_path: Path) -> None:
    driver = ChargedToy()
    driver.total_charge = 1.0
    ase.io.write(tmp_path / "ions.xyz", [water()])
    job = Distillation(
        model("teacher"),
        [tmp_path / "ions.xyz"],
        tmp_path / "out.xyz",
        Growth.of(frames=2),
        driver=model("driver", driver),
    )
    with pytest.raises(DataError, match=r"ions.xyz, frame 0: .* teacher 0 e, driver 1 e"):
        distill(job)


def test_a_charge_that_the_teacher_does_not_read_stays_with_the_frame(tmp_path: Path) -> None:
    (found,) = label_frames(model(calculator=Toy()), [ion(-1)], tmp_path, "ions.xyz")
    assert found.info["charge"] == -1


def test_labels_are_kept_for_one_charge_and_one_spin() -> None:
    assert len({key_of(ion()), key_of(ion(1)), key_of(ion(-1)), key_of(ion(1, spin=2))}) == 4
    assert key_of(ion()) == key_of(ion(0)) == key_of(ion(np.float32(0.0)))
