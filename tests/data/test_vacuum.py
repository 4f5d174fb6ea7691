"""Vacuum inside periodic cells is told from the empty places of liquids and crystals; a torn slab from a whole one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.resources import files

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, graphene, molecule, mx2
from ase.spacegroup import crystal

from les_plugins.data.cautions import Cautions, warn_of_vacuum_in_phonons
from les_plugins.data.vacuum import empty_layer, empty_sphere, torn_slab
from les_plugins.errors import LesPluginsWarning


def periodic(atoms: Atoms) -> Atoms:
    atoms.pbc = True
    return atoms


def perovskite(*symbols: str, a: float) -> Atoms:
    places = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)][3 - len(symbols) :]
    return crystal(symbols, places, spacegroup=221, cellpar=[a, a, a, 90, 90, 90])


def hexagonal(symbols: str, basis: list[tuple[float, float, float]], group: int, a: float, c: float) -> Atoms:
    kinds = list(Atoms(symbols).symbols)
    return crystal(kinds, basis, spacegroup=group, cellpar=[a, a, c, 90, 90, 120])


def wire(apart: float) -> Atoms:
    return Atoms("C8", [[0.0, 0.0, 1.3 * i] for i in range(8)], cell=[apart, apart, 10.4], pbc=True)


IN_VACUUM: dict[str, Callable[[], Atoms]] = {
    "molecule in 30 Å": lambda: molecule("H2O", cell=[30.0] * 3, pbc=True),
    "molecule in 10 Å": lambda: molecule("H2O", cell=[10.0] * 3, pbc=True),
    "graphene, 8 Å": lambda: periodic(graphene(vacuum=4.0)),
    "MoS2, 8 Å": lambda: periodic(mx2("MoS2", vacuum=4.0)),
    "slab in T T T": lambda: periodic(fcc111("Au", (2, 2, 4), vacuum=5.0)),
    "wire": lambda: wire(12.0),
    "cluster": lambda: molecule("C60", cell=[18.0] * 3, pbc=True),
}
DENSE: dict[str, Callable[[], Atoms]] = {
    "NaCl": lambda: bulk("NaCl", "rocksalt", a=5.64),
    "CsCl": lambda: bulk("CsCl", "cesiumchloride", a=4.12),
    "Cs": lambda: bulk("Cs"),
    "MgO, 216 atoms": lambda: bulk("MgO", "rocksalt", a=4.2, cubic=True) * 3,
    "Si": lambda: bulk("Si"),
    "BaTiO3": lambda: perovskite("Ba", "Ti", "O", a=4.0),
    "CsPbI3": lambda: perovskite("Cs", "Pb", "I", a=6.3),
    "PbI3 without A": lambda: perovskite("Pb", "I", a=6.3),
    "graphite": lambda: hexagonal("CC", [(0, 0, 0.25), (1 / 3, 2 / 3, 0.25)], 194, 2.46, 6.7),
    "quartz": lambda: hexagonal("SiO", [(0.4697, 0, 0), (0.4133, 0.2672, 0.1188)], 152, 4.92, 5.41),
    "ice Ih, oxygens": lambda: hexagonal("O", [(1 / 3, 2 / 3, 0.0629)], 194, 4.52, 7.36),
    "water": lambda: packaged("water-64"),
    "MAPbI3": lambda: packaged("mapbi3-222"),
}


def packaged(name: str) -> Atoms:
    found = ase.io.read(str(files("les_plugins.model_zoo") / "structures" / f"{name}.xyz"))
    assert isinstance(found, Atoms)
    return found


@pytest.mark.parametrize("name", IN_VACUUM)
def test_a_vacuum_in_a_periodic_cell_is_found(name: str) -> None:
    assert empty_layer(IN_VACUUM[name]()) is not None


@pytest.mark.parametrize("name", DENSE)
def test_liquids_and_crystals_have_none(name: str) -> None:
    atoms = DENSE[name]()
    assert empty_layer(atoms) is None
    assert empty_sphere(atoms) is None


def test_an_empty_region_off_the_lattice_planes_is_found_as_a_sphere() -> None:
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True) * 4
    centre = atoms.cell.array.sum(0) / 2.0
    hollow = atoms[np.linalg.norm(atoms.positions - centre, axis=1) > 8.0]
    assert isinstance(hollow, Atoms)
    assert empty_layer(hollow) is None
    found = empty_sphere(hollow)
    assert found is not None
    assert found.length == pytest.approx(13.0, abs=2.0)  # 16 Å between nuclei, some 2 Å of radius on each side


def test_lengths_are_those_of_the_gap_whatever_the_place_of_the_sheet() -> None:
    for shift in (0.0, 3.0, 11.5):
        sheet = Atoms("NaCl", positions=[[0, 0, shift], [2, 2, shift]], cell=[4, 4, 12], pbc=True)
        found = empty_layer(sheet)
        assert found is not None
        assert (found.length, found.axis) == (pytest.approx(12.0), 2)


def test_a_calculator_warns_once_and_not_where_nothing_is_scaled() -> None:
    box, cautions = IN_VACUUM["molecule in 30 Å"](), Cautions()
    with pytest.warns(LesPluginsWarning, match=r"pbc is T T T with an empty layer of 30.0 Å"):
        cautions.look(box, "structure", screened=True, reads_charge=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cautions.look(box, "structure", screened=True, reads_charge=False)
        Cautions().look(box, "structure", screened=False, reads_charge=False)
        for name in ("water", "MAPbI3"):
            Cautions().look(DENSE[name](), "structure", screened=True, reads_charge=False)
            warn_of_vacuum_in_phonons(DENSE[name](), "structure")
    with pytest.warns(LesPluginsWarning, match=r"sheet: .*empty layer of 8.0 Å along lattice vector 2; the LO–TO"):
        warn_of_vacuum_in_phonons(IN_VACUUM["graphene, 8 Å"](), "sheet")


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slab_torn_through_its_normal_is_named_with_the_axis(axis: int) -> None:
    slab = fcc111("Au", (2, 2, 5), vacuum=7.0)
    order = np.roll([0, 1, 2], axis - 2)
    slab.set_cell(slab.cell.array[order])
    slab.pbc = np.arange(3) != axis
    assert torn_slab(slab) is None
    slab.positions[:, 2] -= 9.0
    slab.wrap(pbc=True)
    with pytest.warns(LesPluginsWarning, match=rf"in two parts along its open axis {axis}, 14.0 Å apart"):
        Cautions().look(slab, "structure", screened=False, reads_charge=False)


def test_two_slabs_a_slab_without_a_third_vector_and_molecules_are_not_torn() -> None:
    pair = Atoms("Au2", [[0, 0, 5.0], [0, 0, 13.0]], cell=[3, 3, 40], pbc=(True, True, False))
    assert torn_slab(pair) is None
    pair.set_cell([3, 3, 0])
    assert torn_slab(pair) is None
    pair.set_cell([3, 3, 9])
    assert torn_slab(pair) is not None
    pair.pbc = False
    assert torn_slab(pair) is None
