"""`les-plugins md`, `spectra` and `analyze` from the command line, on the toy."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms
from command_line import Done
from toy_calculator import Toy, molecule

from les_plugins.cli import md, plot
from les_plugins.dynamics import Settings, Trajectory, run


class Parts(Toy):
    """The toy with an energy in two parts."""

    implemented_properties = [*Toy.implemented_properties, "short_range_energy", "long_range_energy"]  # noqa: RUF012

    def calculate(self, *arguments: Any, **named: Any) -> None:
        super().calculate(*arguments, **named)
        self.results["long_range_energy"] = 0.25 * self.results["energy"]
        self.results["short_range_energy"] = 0.75 * self.results["energy"]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, les_plugins_command: Callable[..., Done]) -> Callable[..., Done]:
    """Run `les-plugins ARGUMENTS` in this process, every model being the toy."""
    facts = {"weights_sha256": "0" * 64, "host": "toy", "epsilon_infinity": 1.78}
    for module in (md, plot):
        monkeypatch.setattr(module, "open_model", lambda *given, **named: (Parts(), facts))
    return les_plugins_command


@pytest.fixture
def start(tmp_path: Path) -> Path:
    ase.io.write(tmp_path / "start.xyz", [molecule(2, periodic=True), molecule(1, periodic=True)])
    return tmp_path / "start.xyz"


@pytest.fixture(scope="module")
def trajectory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ps of springs and charges, which oscillate at some 290 and 70 cm⁻¹ (masses 1 and 16, 0.3 eV/Å²)."""
    output = tmp_path_factory.mktemp("md") / "md.h5"
    boxed = molecule(1, periodic=True, formula="OHHOHH")
    chosen = Settings.of(temperature=300.0, timestep=1.0, steps=3000, every=3)
    facts = {"epsilon_infinity": 1.78}
    run(Toy(), boxed, output, chosen, facts)
    return output


def test_md_writes_a_trajectory_its_settings_and_a_summary(
    command: Callable[..., Done], start: Path, tmp_path: Path
) -> None:
    output = tmp_path / "md.h5"
    done = command("md", "model.les", start, "-o", output, "--temperature", 300, "--steps", 40, "--json")
    assert done.code == 0
    summary = json.loads(done.output)
    assert (summary["frames"], summary["steps"], summary["velocities"]) == (11, 40, "drawn")
    found = Trajectory.open(output)
    np.testing.assert_allclose(found["positions"][0], molecule(1, periodic=True).positions, atol=1e-7)
    described = json.loads((tmp_path / "md.h5.json").read_text())
    assert described["facts"]["model_weights_sha256"] == "0" * 64
    assert len(described["facts"]["start_sha256"]) == 64


def test_md_resumes_and_starts_from_a_trajectory(command: Callable[..., Done], start: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.h5", tmp_path / "second.h5"
    common = ("md", "model.les", start, "-o", first, "--temperature", 300, "--resume")
    assert command(*common, "--steps", 20).code == 0
    done = command(*common, "--steps", 40)
    assert done.code == 0
    assert "11 frames to step 40 (0.02 ps)" in done.errors
    done = command("md", "model.les", first, "-o", second, "--index", 5, "--steps", 20, "--json")
    assert json.loads(done.output)["velocities"] == "start"
    np.testing.assert_allclose(Trajectory.open(second)["positions"][-1], Trajectory.open(first)["positions"][-1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--temperature", "-5"), "temperature is -5.0"),
        (("--temperature", "1e6"), "temperature is 1000000.0: Input should be less than 100000"),
        (("--thermostat", "bussi", "--temperature", 300), "thermostats are for nvt"),
        (("--ensemble", "nvt"), "needs a temperature above 0 K"),
        (("--temperature", 300, "--pulse-center", 10), "give --field X Y Z"),
        (("--temperature", 300, "--field", 0, 0, 0.1), "no long-range part that a field could act on"),
        (("--temperature", 300, "--index", 7), "has no frame 7; it has 2"),
        ((), "give --temperature to draw them"),
    ],
)
def test_md_refuses_in_one_line(
    command: Callable[..., Done], start: Path, tmp_path: Path, options: tuple[Any, ...], message: str
) -> None:
    done = command("md", "model.les", start, "-o", tmp_path / "md.h5", *options)
    assert done.code == 1
    assert message in done.errors
    assert done.errors.count("\n") == 1
    assert not (tmp_path / "md.h5").exists()


def test_md_says_boundary_velocities_and_constraints_and_keeps_them(
    command: Callable[..., Done], tmp_path: Path
) -> None:
    frozen = molecule(1)
    frozen.set_constraint(FixAtoms([0]))
    ase.io.write(tmp_path / "start.xyz", frozen, columns=["symbols", "positions", "move_mask"])
    first, second, common = tmp_path / "first.h5", tmp_path / "second.h5", ("--steps", 8, "--temperature", 300)
    done = command("md", "m", tmp_path / "start.xyz", "-o", first, *common)
    assert done.errors.splitlines()[:3] == [
        f"{tmp_path}/start.xyz: 1 frame: open (no lattice in the file)",
        "velocities: drawn at 300 K, seed 0",
        "constraints of START: FixAtoms; 6 of 9 degrees of freedom are left",
    ]
    done = command("md", "m", first, "-o", second, *common)
    kelvin = Trajectory.open(first)["temperature"][-1]
    assert f"velocities: kept from START, {kelvin:.1f} K; --temperature is not used" in done.errors
    assert "constraints of START: FixAtoms" in done.errors
    for path in (first, second):
        found = Trajectory.open(path)
        assert found.degrees_of_freedom == 6
        assert np.ptp(found["positions"][:, 0], axis=0).max() == 0.0
        assert np.ptp(found["positions"][:, 1], axis=0).max() > 1e-3
    done = command("md", "m", first, "-o", second, "--resume", "--steps", 12, *common[2:], "--dtype", "float64")
    assert "dtype was None and is 'float64'" in done.errors
    done = command("md", "m", first, "-o", second, "--resume", "--steps", 12, *common[2:])
    assert "velocities: of the last saved state" in done.errors
    assert Trajectory.open(second).frames == 4


def test_an_unknown_thermostat_or_suffix_is_wrong_usage(
    command: Callable[..., Done], start: Path, tmp_path: Path
) -> None:
    assert command("md", "m", start, "-o", tmp_path / "md.h5", "--thermostat", "nose").code == 2
    assert command("md", "m", start, "-o", tmp_path / "md.xyz").code == 2


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("ir", (), "IR absorption n(ν) α(ν): highest at"),
        ("conductivity", ("--correlation-time", 300), "static_conductivity_S/m:"),
        ("dielectric", (), "epsilon_0:"),
        ("velocities", (), "O: highest at"),
    ],
)
def test_spectra_are_printed_and_written(
    command: Callable[..., Done],
    trajectory: Path,
    tmp_path: Path,
    kind: str,
    options: tuple[Any, ...],
    expected: str,
) -> None:
    pytest.importorskip("matplotlib")
    name = tmp_path / kind
    done = command("spectra", kind, trajectory, "--resolution", 40, "--limits", 0, 500, "-o", name, *options)
    assert done.code == 0, done.errors
    assert expected in done.output
    assert "segments of 0.834 ps (hann)" in done.output
    assert (tmp_path / f"{kind}.png").stat().st_size > 10_000
    lines = (tmp_path / f"{kind}.csv").read_text().splitlines()
    header = next(line for line in lines if not line.startswith("#"))
    assert header.startswith("wavenumber_cm-1,")
    assert "error of" in header
    assert any(line.startswith("# window: hann") for line in lines)


def test_the_lines_of_the_toy_lie_at_the_wavenumbers_of_its_springs(
    command: Callable[..., Done], trajectory: Path
) -> None:
    done = command("spectra", "ir", trajectory, "--resolution", 40, "--json")
    report = json.loads(done.output)
    assert report["notes"]["volume_A3"] == pytest.approx(336.0)
    (spectrum,) = report["spectra"].values()
    # sqrt(k/m) of hydrogen with 0.3 eV/Å²: 5.38e14·sqrt(0.1/1.008…)/2πc
    expected = np.sqrt(0.3 / 1.008 / 103.642696) / (2.0 * np.pi * 2.99792458e-5)
    assert report["wavenumber"][int(np.argmax(spectrum["value"]))] == pytest.approx(expected, abs=20.0)


def test_a_measured_curve_is_drawn_over_a_spectrum(
    command: Callable[..., Done], trajectory: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    measured = tmp_path / "measured.csv"
    measured.write_text("wavenumber, n alpha\n# from a paper\n0;0\n300;100\n600 0\n")
    common = ("spectra", "ir", trajectory, "--resolution", 40, "--limits", 0, 500)
    command(*common, "-o", tmp_path / "without")
    done = command(*common, "-o", tmp_path / "with", "--overlay", measured)
    assert done.code == 0
    assert (tmp_path / "with.png").read_bytes() != (tmp_path / "without.png").read_bytes()
    assert (tmp_path / "with.csv").read_text() == (tmp_path / "without.csv").read_text()
    measured.write_text("no numbers")
    done = command(*common, "-o", tmp_path / "with", "--overlay", measured)
    assert (done.code, "holds 0 lines with two numbers" in done.errors) == (1, True)


def test_md_says_that_a_scalar_polarizability_has_no_anisotropic_raman_spectrum(
    command: Callable[..., Done], start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts: dict[str, Any] = {"weights_sha256": "0" * 64, "host": "toy", "epsilon_infinity": 1.78}
    for kind in ("isotropic", "anisotropic"):
        known = facts | {"long_range": {"response": {"dipole": kind, "charge": True}}}
        monkeypatch.setattr(md, "open_model", lambda *given, known=known, **named: (Parts(), known))
        done = command("md", "m", start, "-o", tmp_path / f"{kind}.h5", "--temperature", 300, "--steps", 4)
        assert done.code == 0
        assert ("{dipole: anisotropic}" in done.errors) == (kind == "isotropic")


def test_raman_of_a_constant_polarizability_is_nothing(command: Callable[..., Done], trajectory: Path) -> None:
    done = command("spectra", "raman", trajectory, "--resolution", 40, "--json")
    spectra = json.loads(done.output)["spectra"]
    names = {f"Raman, {kind}" for kind in ("isotropic", "anisotropic", "VV (parallel)", "VH (perpendicular)")}
    assert set(spectra) == {*names, "depolarization ratio VH/VV"}
    assert max(max(spectra[name]["value"]) for name in names) < 1e-20
    assert json.loads(done.output)["notes"]["depolarization ratio"] is None
    done = command("spectra", "raman", trajectory, "--resolution", 40, "--polarizability", "did")
    assert (done.code, "has no polarizability_did: give --polarizability did to md" in done.errors) == (1, True)
    done = command("spectra", "raman", trajectory, "--resolution", 40, "--susceptibility", "--laser", 532)
    assert (done.code, "--susceptibility divides by the factors of --bose and --laser" in done.errors) == (1, True)
    done = command("spectra", "raman", trajectory, "--resolution", 40, "--photons")
    assert (done.code, "--photons counts those of --laser" in done.errors) == (1, True)
    done = command("spectra", "raman", trajectory, "--resolution", 40, "--show", "hv")
    assert (done.code, "allowed: isotropic, anisotropic, vv, vh" in done.errors) == (1, True)


def test_drift_and_diffusion_and_structure_are_printed_and_written(
    command: Callable[..., Done], trajectory: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    done = command("analyze", "drift", trajectory, "-o", tmp_path / "drift")
    assert (done.code, "meV/atom/ps" in done.output) == (0, True)
    done = command("analyze", "diffusion", trajectory, "--longest", 0.3, "--shortest", 0.1, "-o", tmp_path / "msd")
    assert (
        "in a cell of 6.00 × 7.00 × 8.00 Å; without the correction for the finite cell: give --viscosity" in done.output
    )
    done = command("analyze", "rdf", trajectory, "--pair", "O-H", "--json", "-o", tmp_path / "rdf")
    values = json.loads(done.output)["values"]
    assert values["first_peak_A"] < 3.0
    for name in ("drift", "msd", "rdf"):
        assert (tmp_path / f"{name}.png").exists()
        lines = (tmp_path / f"{name}.csv").read_text().splitlines()
        rows = [line for line in lines if not line.startswith("#")]
        assert len(rows) > 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("spectra", "ir", "none.h5"), "none.h5: no such file"),
        (("spectra", "ir", "{md}", "--resolution", 2), "too short for a resolution of 2 cm⁻¹"),
        (("spectra", "ir", "{md}", "--skip", 20), "nothing is left after --skip 20"),
        (
            ("spectra", "ir", "{md}", "--resolution", 40, "--limits", 9000, 9500),
            "no point of the spectrum lies between",
        ),
        (("spectra", "ir", "{md}", "--window", "square"), "window is 'square'"),
        (("analyze", "rdf", "{md}", "--pair", "OO"), "--pair is 'OO'; allowed: two elements"),
        (("analyze", "diffusion", "{md}", "--element", "Xx"), "'Xx' is no chemical symbol"),
    ],
)
def test_analyses_refuse_in_one_line(
    command: Callable[..., Done], trajectory: Path, arguments: tuple[Any, ...], message: str
) -> None:
    done = command(*(str(argument).format(md=trajectory) for argument in arguments))
    assert done.code == 1
    assert message in done.errors
    assert "Traceback" not in done.errors


def test_trajectories_without_a_current_or_without_a_cell_are_refused(
    command: Callable[..., Done], tmp_path: Path
) -> None:
    settings = Settings.of(temperature=300.0, steps=40, current=False)
    run(Toy(), molecule(1), tmp_path / "open.h5", settings)
    done = command("spectra", "ir", tmp_path / "open.h5", "--resolution", 2000)
    assert (done.code, "has no current: simulate without --no-current" in done.errors) == (1, True)
    for arguments in (("analyze", "rdf"), ("analyze", "diffusion"), ("spectra", "conductivity")):
        done = command(*arguments, tmp_path / "open.h5")
        assert done.code == 1
        assert "has no current" in done.errors or "three periodic directions" in done.errors


def test_trajectories_of_two_systems_are_not_mixed(
    command: Callable[..., Done], trajectory: Path, tmp_path: Path
) -> None:
    other: Atoms = molecule(1, periodic=True)
    run(Toy(), other, tmp_path / "other.h5", Settings.of(temperature=300.0, timestep=1.0, steps=30, every=3))
    done = command("spectra", "ir", trajectory, tmp_path / "other.h5")
    assert (done.code, "has other atoms than" in done.errors) == (1, True)
    boxed = molecule(1, periodic=True, formula="OHHOHH")
    run(Toy(), boxed, tmp_path / "faster.h5", Settings.of(temperature=300.0, steps=30))
    done = command("spectra", "ir", trajectory, tmp_path / "faster.h5")
    assert (done.code, "must have one interval" in done.errors) == (1, True)


def test_charges_of_each_element_are_plotted(command: Callable[..., Done], start: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = command("plot", "charges", "model.les", start, "-o", tmp_path / "q", "--json")
    found = json.loads(done.output)["charges"]
    assert found["O"] == {"mean": pytest.approx(-0.8), "deviation": pytest.approx(0.0, abs=1e-12), "atoms": 2}
    assert found["H"]["mean"] == pytest.approx(0.4)
    assert (tmp_path / "q.png").stat().st_size > 5_000
    assert len((tmp_path / "q.csv").read_text().splitlines()) == 7


def test_the_parts_of_the_energy_are_plotted_along_the_distance(command: Callable[..., Done], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    frames = [Atoms("OH", [[0, 0, 0], [0, 0, distance]]) for distance in (3.0, 1.0, 2.0)]
    ase.io.write(tmp_path / "curve.xyz", frames)
    common = ("plot", "dissociation", "model.les", tmp_path / "curve.xyz", "-o", tmp_path / "curve", "--json")
    found = json.loads(command(*common, "--first", 1).output)
    np.testing.assert_allclose(found["distance"], [1.0, 2.0, 3.0])
    np.testing.assert_allclose(found["energies"]["total"], 0.15 * (np.array([1.0, 4.0, 9.0]) - 9.0))
    parts = np.array([found["energies"][part] for part in ("short range", "long range")])
    np.testing.assert_allclose(parts.sum(0), found["energies"]["total"])
    assert (tmp_path / "curve.png").exists()
    done = command(*common, "--first", 2)
    assert (done.code, "both need at least one" in done.errors) == (1, True)


def test_importing_the_package_and_the_commands_imports_neither_scipy_nor_hdf5_nor_matplotlib() -> None:
    import subprocess

    code = (
        "import sys, les_plugins, les_plugins.cli; les_plugins.cli._register(); "
        "print([name for name in ('scipy', 'h5py', 'matplotlib', 'ase.md') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [name for name in ("h5py", "matplotlib", "ase.md") if name in done.stdout] == []
