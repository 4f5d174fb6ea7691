"""Structure files: what cannot be used is refused with the file, the frame and the reason."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator

from les_plugins.data.frames import (
    check_boundaries,
    check_elements,
    check_frame,
    check_no_slabs,
    describe_boundaries,
    iterate_frames,
    label,
    read_frames,
)
from les_plugins.errors import DataError


def water(**changes: object) -> Atoms:
    return Atoms("OHH", [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]], **changes)


def labelled(energy: float = -1.0, force: float = 0.1) -> Atoms:
    atoms = water(cell=[5.0, 5.0, 5.0], pbc=True)
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.full((3, 3), force))
    return atoms


def written(folder: Path, *frames: Atoms) -> Path:
    path = folder / "frames.xyz"
    ase.io.write(path, list(frames), format="extxyz")
    return path


def test_frames_come_back_as_they_were_written(tmp_path: Path) -> None:
    frames = read_frames(written(tmp_path, labelled(), water()))
    assert [len(atoms) for atoms in frames] == [3, 3]
    np.testing.assert_allclose(frames[0].get_positions(), water().get_positions())
    assert frames[0].pbc.all()
    assert not frames[1].pbc.any()


def test_a_single_frame_comes_as_a_list(tmp_path: Path) -> None:
    assert len(read_frames(written(tmp_path, water(), water()), index="1")) == 1


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.xyz: no such file"):
        read_frames(tmp_path / "absent.xyz")


def test_a_file_that_ase_cannot_read_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "noise.cif"
    path.write_text("3\nProperties=species:S:1:pos:R:3\nO 0 0\n")
    with pytest.raises(DataError, match=r"noise\.cif: ASE cannot read it"):
        read_frames(path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.xyz"
    path.write_text("")
    with pytest.raises(DataError, match=r"empty\.xyz"):
        read_frames(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_positions_that_are_not_finite_are_refused_with_the_frame(tmp_path: Path, value: float) -> None:
    broken = water()
    broken.positions[1, 2] = value
    with pytest.raises(DataError, match=r"frames\.xyz, frame 1: positions holds NaN or infinity"):
        read_frames(written(tmp_path, water(), broken))


def test_a_cell_that_is_not_finite_is_refused() -> None:
    with pytest.raises(DataError, match="cell holds NaN"):
        check_frame(water(cell=[[np.nan, 0, 0], [0, 5, 0], [0, 0, 5]], pbc=True), "x")


def test_a_structure_without_atoms_is_refused() -> None:
    with pytest.raises(DataError, match="has no atoms"):
        check_frame(Atoms(), "x")


@pytest.mark.parametrize(
    "cell",
    [
        [[5.0, 0.0, 0.0], [5.0, 0.0, 0.0], [0.0, 0.0, 5.0]],
        [[5.0, 0.0, 0.0], [0.0, 5.0, 0.0], [2.0, 3.0, 0.0]],
        [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
        [[5.0, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, 0.0]],
    ],
)
def test_a_singular_cell_is_refused(cell: list[list[float]]) -> None:
    with pytest.raises(DataError, match=r"x: pbc is T T T but the cell .* is singular"):
        check_frame(water(cell=cell, pbc=True), "x")


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ([[5, 0, 0], [0, 0, 0], [-10, 0, 0]], "pbc is T F T but lattice vectors 0 and 2 are parallel"),
        ([[5, 0, 0], [0, 0, 0], [5, 0.4, 0]], r"the cell is 0\.399 Å high along lattice vector 0"),
    ],
)
def test_a_slab_whose_vectors_span_no_plane_is_refused(cell: list[list[float]], message: str) -> None:
    with pytest.raises(DataError, match=f"x: {message}"):
        check_frame(water(cell=cell, pbc=[True, False, True]), "x")


@pytest.mark.parametrize("third", [[0, 0, 0], [5, 0, 0], [0, 0, 0.1]])
def test_the_third_vector_of_a_slab_may_be_anything(third: list[float]) -> None:
    slab = water(cell=[[5, 0, 0], [1, 5, 0], third], pbc=[True, True, False])
    check_frame(slab, "x")
    check_boundaries([slab], "x")
    with pytest.raises(DataError, match="x, frame 0: pbc is T T F; allowed with this host: T T T or F F F"):
        check_no_slabs([slab], "x")


def test_wires_are_refused_with_a_long_range_part() -> None:
    wire = water(cell=[5, 5, 5], pbc=[False, True, False])
    check_frame(wire, "x")
    for check in (check_boundaries, check_no_slabs):
        with pytest.raises(DataError, match=r"x, frame 1: pbc is F T F; allowed .* [Ww]ires"):
            check([water(cell=[5, 5, 5], pbc=True), wire], "x")


def test_a_missing_lattice_vector_is_refused_by_its_number() -> None:
    with pytest.raises(DataError, match="pbc is T T F but lattice vector 1 is zero"):
        check_frame(water(cell=[[5, 0, 0], [0, 0, 0], [0, 0, 5]], pbc=[True, True, False]), "x")


def test_a_cell_that_is_too_small_is_refused_with_its_height() -> None:
    flat = [[8.0, 0.0, 0.0], [0.0, 8.0, 0.0], [0.2, 0.0, 0.5]]
    with pytest.raises(DataError, match=r"the cell is 0\.5 Å high along lattice vector 2; allowed: at least 1\.0 Å"):
        check_frame(water(cell=flat, pbc=True), "x")


def test_left_handed_and_skewed_cells_are_fine() -> None:
    check_frame(water(cell=[[0.0, 5.0, 0.0], [5.0, 0.0, 0.0], [20.0, 0.0, 5.0]], pbc=True), "x")


def test_an_open_structure_needs_no_cell() -> None:
    check_frame(water(), "x")


def test_a_label_is_found_wherever_it_was_put() -> None:
    atoms = labelled()
    atoms.info["bandgap"] = 1.5
    atoms.arrays["spin"] = np.ones(3)
    assert label(atoms, "energy") == -1.0
    assert label(atoms, "bandgap") == 1.5
    np.testing.assert_array_equal(label(atoms, "spin"), np.ones(3))
    assert label(atoms, "dipole") is None


def test_an_element_that_the_model_does_not_know_is_named_beside_those_it_knows() -> None:
    with pytest.raises(DataError, match="x, frame 1: the model does not know H; it knows: O, Na"):
        check_elements([Atoms("Na"), water()], [8, 11], "x")
    check_elements([water()], [1, 8, 11], "x")


def test_masses_and_velocities_of_gpumd_and_quip_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.xyz"
    for columns in ("mass:R:1:vel:R:3", "mass:R:1:velo:R:3", "masses:R:1:velocities:R:3"):
        path.write_text(
            f'2\nLattice="6 0 0 0 6 0 0 0 6" Properties=species:S:1:pos:R:3:{columns}\n'
            "H 0 0 0 2.014 0.01 0 0\nO 1 0 0 15.999 -0.001 0 0.002\n"
        )
        for atoms in (read_frames(path)[0], next(iterate_frames(path))):
            np.testing.assert_array_equal(atoms.get_masses(), [2.014, 15.999])
            # Å/fs, and half m v² of the first atom in eV: 0.5 · 2.014 u · (0.01 Å/fs)² · 103.642697 eV fs²/(u Å²)
            np.testing.assert_allclose(atoms.get_velocities() * units.fs, [[0.01, 0, 0], [-0.001, 0, 0.002]])
            assert atoms[:1].get_kinetic_energy() == pytest.approx(0.5 * 2.014 * 1e-4 * 103.642697, rel=1e-6)
            assert not {"mass", "vel", "velo", "velocities"} & set(atoms.arrays)


def test_names_of_ase_win_over_those_of_other_programs(tmp_path: Path) -> None:
    path = tmp_path / "both.xyz"
    path.write_text("1\nProperties=species:S:1:pos:R:3:vel:R:3:momenta:R:3\nH 0 0 0 9 9 9 1 2 3\n")
    np.testing.assert_array_equal(read_frames(path)[0].get_momenta(), [[1, 2, 3]])


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("mass:R:1", "0", "the column mass holds 0 u"),
        ("vel:R:3", "0 0 nan", "column vel"),
        ("vel:R:1", "1", "column vel"),
        ("masses:R:1", "0", "the mass of atom 0 is 0 u; allowed: above 0"),
        ("masses:R:1", "-5", "the mass of atom 0 is -5 u"),
        ("masses:R:1", "nan", "the mass of atom 0 is nan u"),
        ("momenta:R:2", "1 2", "momenta have 2"),
        ("momenta:R:3", "nan 0 0", "momenta holds NaN"),
        ("momenta:R:3", "1e200 0 0", "momenta holds NaN or more than"),
    ],
)
def test_columns_that_cannot_be_meant_are_named(tmp_path: Path, column: str, value: str, message: str) -> None:
    path = tmp_path / "wrong.xyz"
    path.write_text(f"1\nProperties=species:S:1:pos:R:3:{column}\nH 0 0 0 {value}\n")
    with pytest.raises(DataError, match=f"frame 0: .*{message}"):
        read_frames(path)


def test_the_boundaries_of_frames_are_described() -> None:
    box = {"positions": [[0.0, 0.0, 0.0]], "cell": [5.0, 5.0, 5.0]}
    periodic, slab, unused = (Atoms("H", **box, pbc=pbc) for pbc in (True, [True, True, False], False))
    assert describe_boundaries([periodic]) == "1 frame: periodic"
    mixed = [periodic, Atoms("H"), periodic]
    assert describe_boundaries(mixed) == "3 frames: 2 periodic, 1 open (no lattice in the file)"
    assert describe_boundaries([slab]) == "1 frame: slab (periodic along a and b)"
    assert describe_boundaries([unused, unused]) == "2 frames: open (pbc is F F F)"
