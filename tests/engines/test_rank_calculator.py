"""The ASE calculator on ranks as torchrun starts them: the numbers of one process that knows no domains."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.stress import full_3x3_to_voigt_6_stress
from rank_processes import run_ranks
from tiny_domains import SECTIONS, TinyDomain, Whole, water
from work_under_torchrun import TOTAL_CHARGE, as_by_torchrun

from les_plugins.engines.ranks.calculator import meet_torchrun
from les_plugins.engines.ranks.partition import partition
from les_plugins.errors import ConfigError
from les_plugins.model.physical import born_results, latent_results

HERE = Path(__file__).parent
#: Sums over atoms and edges in another order, of energies of 100 eV and forces of 10 eV/Å.
SAME = 1e-10


def found_by(size: int, folder: Path) -> dict[str, Any]:
    """What so many ranks found, by case and name."""
    paths = os.pathsep.join([str(HERE), str(HERE.parent)])
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
    call = [*torchrun, str(HERE / "work_under_torchrun.py"), str(folder)]
    done = subprocess.run(call, env=variables, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    with np.load(folder / f"{size}.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def two(folder: Path) -> dict[str, Any]:
    """With torchrun's variables, but without its start of three Pythons; the slow test has torchrun itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run_ranks(as_by_torchrun, 2, 2, port, str(folder))
    with np.load(folder / "2.npz") as file:
        return dict(file)


def whole(name: str, positions: Any = None, count: int = 24) -> Whole:
    atoms = water(count)
    if positions is not None:
        atoms.positions = positions
    return Whole(TinyDomain(SECTIONS[name]), atoms, TOTAL_CHARGE if name == "given" else 0.0)


@pytest.mark.parametrize("name", SECTIONS)
def test_energy_forces_and_stress_are_those_of_the_whole(name: str, two: dict[str, Any]) -> None:
    expected, atoms = whole(name), water()
    assert float(two[f"{name}/energy"]) == pytest.approx(expected.energy, rel=1e-12)
    np.testing.assert_allclose(two[f"{name}/forces"], expected.forces, atol=SAME)
    np.testing.assert_allclose(two[f"{name}/energies"], expected.energies, atol=SAME)
    stress = full_3x3_to_voigt_6_stress(-expected.virial / atoms.get_volume())
    np.testing.assert_allclose(two[f"{name}/stress"], stress, atol=SAME)


@pytest.mark.parametrize("name", SECTIONS)
def test_charges_born_charges_and_current_are_those_of_the_whole(name: str, two: dict[str, Any]) -> None:
    structure, atoms = whole(name).structure, water()
    born = born_results(structure)
    np.testing.assert_allclose(two[f"{name}/charges"], latent_results(structure)["charges"], atol=SAME)
    np.testing.assert_allclose(two[f"{name}/born_effective_charges"], born, atol=SAME)
    current = np.einsum("nab,nb->a", born, atoms.get_velocities())
    np.testing.assert_allclose(two[f"{name}/current"], current, atol=SAME)


@pytest.mark.parametrize("name", SECTIONS)
def test_polarizability_is_that_of_the_whole(name: str, two: dict[str, Any]) -> None:
    structure = whole(name).structure
    if structure.dipolar is None:
        assert f"{name}/polarizability" not in two
        return
    expected = latent_results(structure)["polarizability"]
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(two[f"{name}/polarizability"], expected, atol=SAME)


def test_without_a_known_susceptibility_that_of_mutual_polarization_counts(two: dict[str, Any]) -> None:
    expected = latent_results(Whole(TinyDomain(SECTIONS["mutual"]), water(), susceptibility=None).structure)
    for name in ("charges", "polarizability"):
        np.testing.assert_allclose(two[f"own/{name}"], expected[name], atol=SAME)


@pytest.mark.parametrize("name", SECTIONS)
def test_forces_after_some_dynamics_are_those_of_the_structure_then(name: str, two: dict[str, Any]) -> None:
    positions = two[f"{name}/later positions"]
    start = water().positions + 20.0 * water().cell.array[0]
    assert np.linalg.norm(positions - start, axis=1).max() > 0.5  # farther than any list serves
    np.testing.assert_allclose(two[f"{name}/later forces"], whole(name, positions).forces, atol=1e-9)


def test_exchanges_of_ghosts_are_counted_apart_from_what_they_are_in(two: dict[str, Any]) -> None:
    lists, model, long_range, halo = two["ticks"]
    # the clock is asked before and after each exchange, and five times more: at the start and after every part
    assert halo == two["exchanges"] > 4
    assert two["asked"] == 2 * halo + 5
    assert lists + model + long_range + halo == two["asked"] - 1
    assert min(lists, model, long_range) >= 1


def test_a_rank_may_have_one_atom(two: dict[str, Any]) -> None:
    np.testing.assert_allclose(two["few/forces"], whole("pairs", count=2).forces, atol=SAME)


def test_what_ranks_cannot_take_is_refused_by_all_of_them(two: dict[str, Any]) -> None:
    assert str(two["slab"]) == "DataError"
    assert str(two["other"]) == "DataError"


def test_what_one_rank_alone_cannot_take_is_an_error_of_all(two: dict[str, Any]) -> None:
    # of rank 0, whose own structure is right; that the ranks go on together shows that the other had one too
    assert [str(two[name]) for name in ("swapped", "lost", "strange")] == 3 * ["DataError"]
    assert float(two["after"]) == pytest.approx(whole("pairs").energy, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 3])
def test_any_number_of_ranks_gives_the_same(size: int, two: dict[str, Any], folder: Path) -> None:
    found = found_by(size, folder)
    for key, value in two.items():
        if value.dtype.kind == "f" and "later" not in key:
            np.testing.assert_allclose(found[key], value, rtol=1e-12, atol=SAME, err_msg=key)


def test_without_torchrun_it_says_how_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="torchrun"):
        meet_torchrun()


@pytest.mark.parametrize("size", [1, 2, 5])
def test_partition_owns_every_atom_once_and_sees_every_neighbor(size: int) -> None:
    atoms, reach = water(), 4.0
    positions, cell = atoms.positions - 3.0 * atoms.cell.array[1], atoms.cell.array
    owned = []
    for rank in range(size):
        part = partition(positions, cell, rank, size, reach)
        places = part.positions(positions, cell)
        owned += part.atom[: part.own].tolist()
        distances = np.linalg.norm(places[: part.own, None] - places[None], axis=-1)
        # every pair of an own atom and an image, counted over images out to two cells
        shifts = np.array(np.meshgrid(*[range(-2, 3)] * 3)).reshape(3, -1).T @ cell
        images = (positions[None] + shifts[:, None]).reshape(-1, 3)
        everywhere = np.linalg.norm(positions[part.atom[: part.own], None] - images[None], axis=-1)
        assert (distances < reach).sum() == (everywhere < reach).sum()
    assert sorted(owned) == list(range(len(atoms)))
