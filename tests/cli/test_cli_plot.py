"""`les-plugins plot parity` and `plot map`: files, numbers, refusals; the toy is every model."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from command_line import Done
from toy_calculator import Toy, labelled, molecule

from les_plugins.cli import evaluate, plot
from les_plugins.errors import ConfigError, HostError
from les_plugins.plots.charge_map import AXES, ChargeMap, charge_map, plot_map

pytest.importorskip("matplotlib")


class Latent(Toy):
    """The toy with latent charges that are 2/3 of the physical ones, and grow along z."""

    implemented_properties = [*Toy.implemented_properties, "latent_charges"]  # noqa: RUF012 (as ASE has it)

    def calculate(self, atoms: Atoms | None = None, *arguments: Any, **named: Any) -> None:
        super().calculate(atoms, *arguments, **named)
        assert atoms is not None
        self.results["charges"] = self.results["charges"] + 0.01 * atoms.positions[:, 2]
        self.results["latent_charges"] = self.results["charges"] / 1.5


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, les_plugins_command: Callable[..., Done]) -> Callable[..., Done]:
    """Run `les-plugins plot ARGUMENTS` in this process."""

    def run(*arguments: object, calculator: Any = None) -> Done:
        for module in (evaluate, plot):
            monkeypatch.setattr(module, "open_model", lambda *given, **named: (calculator or Latent(spring=0.31), {}))
        return les_plugins_command("plot", *arguments)

    return run


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    file = tmp_path / "frames.xyz"
    found = [labelled(molecule(seed, periodic=True)) for seed in range(3)]
    for atoms in found:  # the file has nine columns of them
        atoms.arrays["REF_born_effective_charges"] = atoms.calc.results.pop("born_effective_charges").reshape(-1, 9)
    ase.io.write(file, found)
    return file


def test_parity_draws_every_quantity_that_the_file_has(
    command: Callable[..., Any], frames: Path, tmp_path: Path
) -> None:
    code, printed, _ = command("parity", "m.les", frames, "-o", tmp_path / "new" / "p", "--json")
    assert code == 0
    report = json.loads(printed)
    names = {"energy", "forces", "stress", "born_effective_charges"}
    assert names <= set(report["metrics"])
    assert report["files"] == [str(tmp_path / "new" / f"p_{name}.png") for name in report["metrics"]]
    assert all(Path(file).read_bytes().startswith(b"\x89PNG") for file in report["files"])
    # the toy is 0.01 eV/Å² stiffer than the labels
    largest = max(np.abs(atoms.positions).max() for atoms in ase.io.read(frames, ":"))
    assert report["metrics"]["forces"]["all"]["largest"] == pytest.approx(0.01 * largest, rel=1e-4)  # digits in FILE
    code, printed, _ = command("parity", "m.les", frames, "-o", tmp_path / "q", "--no-born")
    assert code == 0
    assert f"wrote {tmp_path / 'q_forces.png'}" in printed
    assert not (tmp_path / "q_born_effective_charges.png").exists()


def test_parity_of_an_unlabelled_file_is_refused(command: Callable[..., Any], tmp_path: Path) -> None:
    ase.io.write(tmp_path / "bare.xyz", molecule(1))
    code, _, errors = command("parity", "m.les", tmp_path / "bare.xyz", "-o", tmp_path / "p")
    assert code == 1
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("*.png"))


def test_a_map_has_a_table_with_every_atom_where_it_is_drawn(
    command: Callable[..., Any], frames: Path, tmp_path: Path
) -> None:
    code, printed, _ = command("map", "m.les", frames, "-o", tmp_path / "map", "--index", 1, "--axis", "x", "--json")
    assert code == 0
    atoms = ase.io.read(frames, 1)
    with (tmp_path / "map.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["element"] for row in rows] == list(atoms.symbols)
    physical = np.array([-0.8, 0.4, 0.4]) + 0.01 * atoms.positions[:, 2]
    np.testing.assert_allclose([float(row["charge_e"]) for row in rows], physical, atol=1e-7)  # digits in the table
    np.testing.assert_allclose([float(row["latent_charge_e"]) for row in rows], physical / 1.5, atol=1e-7)
    places = np.array([[float(row[f"{axis}_A"]) for axis in "xyz"] for row in rows])
    np.testing.assert_allclose(places, atoms.get_positions(wrap=True), atol=1e-5)
    report = json.loads(printed)
    assert report["latent_charges"]["H"]["mean"] == pytest.approx(physical[1:].mean() / 1.5, abs=1e-7)
    assert (tmp_path / "map.png").stat().st_size > 20_000


def test_a_map_that_cannot_be_drawn_is_refused_in_one_line(
    command: Callable[..., Any], frames: Path, tmp_path: Path
) -> None:
    for arguments, message in (
        (("--axis", "w"), "--axis is 'w'; allowed: x, y, z"),
        (("--index", 7), "has no frame 7; it has 3"),
    ):
        code, printed, errors = command("map", "m.les", frames, "-o", tmp_path / "map", *arguments)
        assert (code, printed) == (1, "")
        assert message in errors
    code, _, errors = command("map", "m.les", frames, "-o", tmp_path / "map", calculator=Toy())
    assert "no latent charges: it has no long-range part" in errors
    assert not list(tmp_path.glob("map*"))
    with pytest.raises(HostError, match="no latent charges"):
        charge_map(Toy(), molecule(1))


def test_each_panel_is_coloured_about_the_mean_of_its_element(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *given, **named: drawn.append(figure))
    atoms = Atoms("OHHHN", np.arange(15.0).reshape(5, 3), cell=[20.0] * 3, pbc=True)
    latent = np.array([-0.9, 0.2, 0.3, 0.5, -0.1])
    for axis, (across, up) in AXES.items():
        drawn.clear()
        plot_map(tmp_path / "map.png", ChargeMap(atoms, latent, latent), axis)
        panels = drawn[0].axes
        assert [panel.get_title().split(":")[0] for panel in panels] == ["H", "N", "O"]
        grey, coloured = panels[0].collections
        assert coloured.norm.vcenter == pytest.approx(1.0 / 3.0)
        assert coloured.norm.halfrange == pytest.approx(0.5 - 1.0 / 3.0)
        order = np.argsort(atoms.positions[1:4, "xyz".index(axis)])  # the farthest is drawn first
        np.testing.assert_allclose(coloured.get_array(), latent[1:4][order])
        np.testing.assert_allclose(coloured.get_offsets(), atoms.positions[1:4][order][:, [across, up]])
        assert len(grey.get_offsets()) == 2
        assert (panels[0].get_xlabel(), panels[0].get_ylabel()) == (f"{'xyz'[across]} (Å)", f"{'xyz'[up]} (Å)")
        limits = panels[0].get_xlim()
        assert limits[0] < 0.0 < 20.0 < limits[1]
    with pytest.raises(ConfigError, match="axis is 'w'; allowed: x, y, z"):
        plot_map(tmp_path / "map.png", ChargeMap(atoms, latent, latent), "w")
