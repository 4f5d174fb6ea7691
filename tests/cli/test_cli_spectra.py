"""`les-plugins spectra` and `analyze` with what cannot be, and without what is not needed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from command_line import Done
from toy_calculator import Toy, molecule

from les_plugins.dynamics import Settings, run
from les_plugins.errors import LesPluginsWarning
from les_plugins.units import BOLTZMANN, SIEMENS_PER_METRE, SPEED_OF_LIGHT


@pytest.fixture(scope="module")
def trajectory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 ps of springs and charges."""
    output = tmp_path_factory.mktemp("md") / "md.h5"
    chosen = Settings.of(temperature=300.0, timestep=1.0, steps=3000, every=3)
    run(Toy(), molecule(1, periodic=True, formula="OHHOHH"), output, chosen, {"epsilon_infinity": 1.78})
    return output


def spoiled(trajectory: Path, folder: Path, change: Callable[[Any], None]) -> Path:
    path = folder / "spoiled.h5"
    shutil.copy(trajectory, path)
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def cold(file: Any) -> None:
    file["temperature"][...] = 0.0
    file["velocities"][...] = 0.0


def broken(file: Any) -> None:
    file["current"][11, 2] = np.nan


def scalar(file: Any) -> None:
    file["polarizability"][...] = 2.0 * np.eye(3)


def mobile(file: Any) -> None:
    file["current"][...] = np.random.default_rng(1).standard_normal(file["current"].shape)


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (cold, ("ir",), "its mean temperature is 0 K; this needs one above 0"),
        (cold, ("conductivity",), "its mean temperature is 0 K; this needs one above 0"),
        (cold, ("dielectric",), "its mean temperature is 0 K; this needs one above 0"),
        (cold, ("velocities",), "its mean temperature is 0 K; this needs one above 0"),
        (cold, ("raman", "--bose"), "its mean temperature is 0 K; this needs one above 0"),
        (cold, ("ir", "--temperature", 0), "--temperature is 0 K; allowed: above 0"),
        (cold, ("ir", "--temperature", -300), "--temperature is -300 K; allowed: above 0"),
        (cold, ("ir", "--temperature", "nan"), "--temperature is nan K; allowed: above 0"),
        (broken, ("ir",), "current of frame 11 holds a value that is not finite"),
        (broken, ("conductivity",), "current of frame 11 holds a value that is not finite"),
        (scalar, ("raman",), "train the model with long_range: {response: {dipole: anisotropic}}"),
        (mobile, ("dielectric",), "the dipole does not level off"),
        (mobile, ("conductivity", "--correlation-time", "nan"), "correlation time nan fs; allowed"),
        (mobile, ("ir", "--epsilon-infinity", 0.5), "--epsilon-infinity is 0.5; allowed: a number of at least 1"),
        (mobile, ("ir", "--limits", 500, 100), "--limits are 500 and 100 cm⁻¹; allowed"),
        (mobile, ("ir", "--limits", "nan", 100), "--limits are nan and 100 cm⁻¹; allowed"),
        (mobile, ("ir", "--blocks", 0), "blocks is 0; allowed: at least 1"),
        (mobile, ("ir", "--temperature", 1e-300), "--temperature is 1e-300 K; allowed: above 0 (0.001 to 1e9)"),
        (mobile, ("ir", "--temperature", 1, "--correction", "schofield"), "is not finite at"),
        (mobile, ("ir", "-o", "/"), "has no name that .csv and .png could be added to"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*of the current's power lies near or above")
def test_spectra_that_would_be_nonsense_are_refused_in_one_line(
    les_plugins_command: Callable[..., Done],
    trajectory: Path,
    tmp_path: Path,
    change: Callable[[Any], None],
    arguments: tuple[Any, ...],
    message: str,
) -> None:
    kind, *options = arguments
    done = les_plugins_command("spectra", kind, spoiled(trajectory, tmp_path, change), "--resolution", 60, *options)
    assert done.code == 1
    assert message in done.errors
    assert done.errors.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rdf", "--cutoff", "inf"), "cutoff inf Å; allowed: 0 < width < cutoff"),
        (("rdf", "--cutoff", -1), "allowed: 0 < width < cutoff"),
        (("rdf", "--width", "nan"), "allowed: 0 < width < cutoff"),
        (("rdf", "--blocks", 0), "blocks is 0; allowed: at least 1"),
        (("rdf", "--pair", "O-Xe"), "md.h5: the structures have no Xe"),
        (("diffusion", "--blocks", 0), "blocks is 0; allowed: at least 1"),
        (("diffusion", "--blocks", -2), "blocks is -2; allowed: at least 1"),
        (("diffusion", "--longest", "inf"), "times from 0.5 to inf ps"),
        (("diffusion", "--element", "Xe"), "has no Xe"),
        (
            ("diffusion", "--longest", 0.3, "--shortest", 0.1, "--viscosity", 0),
            "viscosity is 0 mPa·s; allowed: above 0",
        ),
        (("drift", "--blocks", 0), "blocks is 0; allowed: at least 1"),
        (("drift", "--blocks", 2), "a drift needs three blocks"),
        (("drift", "--skip", "nan"), "skip is nan ps"),
    ],
)
def test_analyses_of_impossible_options_are_refused_in_one_line(
    les_plugins_command: Callable[..., Done], trajectory: Path, arguments: tuple[Any, ...], message: str
) -> None:
    kind, *options = arguments
    done = les_plugins_command("analyze", kind, trajectory, *options)
    assert done.code == 1
    assert message in done.errors
    assert done.errors.count("\n") == 1


def test_one_block_is_drawn_without_an_error_bar(
    les_plugins_command: Callable[..., Done], trajectory: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    for kind in ("ir", "raman"):
        common = ("spectra", kind, trajectory, "--resolution", 12, "-o", tmp_path / kind)
        done = les_plugins_command(*common, "--blocks", 1)
        assert done.code == 0, done.errors
        assert "error: none, there is one block" in done.output
        assert "error of" not in (tmp_path / f"{kind}.csv").read_text()
        assert (tmp_path / f"{kind}.png").stat().st_size > 5_000
    done = les_plugins_command(
        "spectra", "ir", trajectory, "--resolution", 40, "-o", tmp_path / "water.v1.csv", "--json"
    )
    written = {str(tmp_path / f"water.v1.{suffix}") for suffix in ("csv", "png")}
    assert set(json.loads(done.output)["files"]) == written == {str(path) for path in tmp_path.glob("water*")}
    common = ("analyze", "diffusion", trajectory, "--longest", 0.3, "--shortest", 0.1, "--blocks", 1)
    done = les_plugins_command(*common, "--json")
    assert json.loads(done.output)["values"]["error_A2/ps"] is None
    assert "±" not in les_plugins_command(*common).output
    done = les_plugins_command("analyze", "rdf", trajectory, "--pair", "O-H", "--blocks", 1, "--json")
    assert json.loads(done.output)["values"]["first_peak_error_A"] is None


def test_a_conductivity_spectrum_needs_no_green_kubo_value(
    les_plugins_command: Callable[..., Done], trajectory: Path
) -> None:
    common = ("spectra", "conductivity", trajectory, "--resolution", 40, "--correlation-time", 2000)
    done = les_plugins_command(*common)
    assert done.code == 0
    assert "static_conductivity_S/m: none: a block of 3 ps is shorter than twice the correlation time" in done.output
    assert len(json.loads(les_plugins_command(*common, "--json").output)["wavenumber"]) > 10


def test_another_epsilon_infinity_rescales_the_current(
    les_plugins_command: Callable[..., Done], trajectory: Path
) -> None:
    common = ("--resolution", 40, "--json")
    for kind in ("ir", "conductivity"):
        options = ("--correlation-time", 300) if kind == "conductivity" else ()
        plain, scaled = (
            json.loads(les_plugins_command("spectra", kind, trajectory, *common, *options, *more).output)
            for more in ((), ("--epsilon-infinity", 1.78 * 4))
        )
        (first,), (second,) = plain["spectra"].values(), scaled["spectra"].values()
        np.testing.assert_allclose(second["value"], 4.0 * np.array(first["value"]), rtol=1e-9)
    plain, scaled = (
        json.loads(les_plugins_command("spectra", "dielectric", trajectory, *common, *more).output)["notes"]
        for more in ((), ("--epsilon-infinity", 1.78 * 4))
    )
    ions = [found["epsilon_0"] - found["epsilon_infinity"] for found in (plain, scaled)]
    assert ions[1] == pytest.approx(4.0 * ions[0])


def test_a_breathing_cell_does_not_diffuse(
    les_plugins_command: Callable[..., Done], trajectory: Path, tmp_path: Path
) -> None:
    def breathing(file: Any) -> None:
        scales = 1.0 + 0.02 * np.sin(0.05 * np.arange(len(file["time"])))[:, None, None]
        file["positions"][...] = (file["positions"][0] + np.array([200.0, 0.0, 0.0])) * scales
        file["cell"][...] = file["cell"][0] * scales

    path = spoiled(trajectory, tmp_path, breathing)
    done = les_plugins_command("analyze", "diffusion", path, "--longest", 0.3, "--shortest", 0.1, "--json")
    assert abs(json.loads(done.output)["values"]["diffusion_A2/ps"]) < 1e-9  # as recorded: 0.1 Å²/ps and more


def test_marks_and_overlays_that_are_none_are_refused(
    les_plugins_command: Callable[..., Done], trajectory: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "curve.png"
    picture.write_bytes(bytes(range(256)))
    for options, message in (
        (("--mark", "nan"), "--mark is nan cm⁻¹; allowed: a finite number"),
        (("--overlay", picture), "is not a text file in UTF-8"),
        (("--overlay", tmp_path), "is not a file"),
    ):
        done = les_plugins_command("spectra", "ir", trajectory, "--resolution", 60, *options)
        assert (done.code, done.errors.count("\n")) == (1, 1)
        assert message in done.errors


def in_field(field: Any) -> Callable[[Any], None]:
    def change(file: Any) -> None:
        file.attrs["settings"] = json.dumps(json.loads(file.attrs["settings"]) | {"field": field})

    return change


@pytest.mark.parametrize(
    "command",
    [
        ("spectra", "ir", "--resolution", 60),
        ("spectra", "velocities", "--resolution", 60),
        ("analyze", "rdf", "--pair", "O-H"),
        ("analyze", "diffusion", "--longest", 0.3, "--shortest", 0.1),
    ],
)
def test_a_trajectory_in_a_pulse_is_no_equilibrium(
    les_plugins_command: Callable[..., Done], trajectory: Path, tmp_path: Path, command: tuple[Any, ...]
) -> None:
    pulse = {"vector": [0.0, 0.0, 0.1], "center": 100.0, "width": 20.0, "wavenumber": 0.0}
    path = spoiled(trajectory, tmp_path, in_field(pulse))
    with pytest.warns(LesPluginsWarning, match="ran in a field that changes with time"):
        les_plugins_command(*command[:2], path, *command[2:])


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("spectra", "ir", "--resolution", 60), "a mean over directions: --along, --across"),
        (("spectra", "conductivity", "--resolution", 60, "--correlation-time", 300), "by Ohm's law"),
        (("spectra", "velocities", "--resolution", 60), "that of the material in it"),
        (("spectra", "raman", "--resolution", 60), "it has a preferred direction"),
        (("analyze", "rdf", "--pair", "O-H"), "that of the material in it"),
        (("analyze", "diffusion", "--longest", 0.3, "--shortest", 0.1), "the mean velocity of O is taken off"),
    ],
)
def test_a_static_field_is_said_with_what_it_does(
    les_plugins_command: Callable[..., Done], trajectory: Path, tmp_path: Path, command: tuple[Any, ...], words: str
) -> None:
    path = spoiled(trajectory, tmp_path, in_field({"vector": [0.0, 0.0, 0.15], "center": None}))
    with pytest.warns(LesPluginsWarning, match=f"ran in a static field of 0 0 0.15 V/Å: .*{words}"):
        done = les_plugins_command(*command[:2], path, *command[2:], "--json")
    assert json.loads(done.output)["samples"]["field_V/A"] == [0.0, 0.0, 0.15]


def test_ions_in_a_static_field_conduct_by_ohms_law(
    les_plugins_command: Callable[..., Done], trajectory: Path, tmp_path: Path
) -> None:
    drift = 2e-3  # e Å/fs

    def conducting(file: Any) -> None:
        in_field({"vector": [0.0, 0.0, 0.15], "center": None})(file)
        file["current"][...] = 1e-3 * np.random.default_rng(1).standard_normal(file["current"].shape)
        file["current"][:, 2] += drift

    path = spoiled(trajectory, tmp_path, conducting)
    options = ("--resolution", 60, "--correlation-time", 300, "--json")
    with pytest.warns(LesPluginsWarning, match="ran in a static field"):
        notes = json.loads(les_plugins_command("spectra", "conductivity", path, *options).output)["notes"]
    ohmic = SIEMENS_PER_METRE * drift / (notes["volume_A3"] * 0.15)
    assert notes["ohmic_conductivity_S/m"] == pytest.approx(ohmic, rel=0.1)
    # white noise of frames 3 fs apart: half a frame; with the square of the drift it would be 800 times as large
    white = SIEMENS_PER_METRE * 1e-6 * 1.5 / (notes["volume_A3"] * BOLTZMANN * notes["temperature_K"])
    assert notes["static_conductivity_S/m"] == pytest.approx(white, abs=2.0 * white)


def test_light_along_the_field_is_meant_and_light_of_no_direction_warned_of(
    les_plugins_command: Callable[..., Done], trajectory: Path, tmp_path: Path
) -> None:
    path = spoiled(trajectory, tmp_path, in_field({"vector": [0.0, 0.0, 0.15], "center": None}))
    done = les_plugins_command("spectra", "ir", path, "--resolution", 60, "--along", 0, 0, 1)
    assert done.code == 0, done.errors


@pytest.mark.parametrize("kind", ["ir", "conductivity", "raman", "velocities"])
def test_bands_that_frames_are_too_far_apart_for_are_warned_of(
    les_plugins_command: Callable[..., Done], trajectory: Path, tmp_path: Path, kind: str
) -> None:
    def stretching(file: Any) -> None:
        angular = 2.0 * np.pi * SPEED_OF_LIGHT * 3400.0
        file["time"][...] = 20.0 * np.arange(len(file["time"]))
        file.attrs["settings"] = json.dumps(json.loads(file.attrs["settings"]) | {"timestep": 0.5, "every": 40})
        phase = angular * file["time"][...]
        file["velocities"][...], file["positions"][...] = 0.0, file["positions"][0]
        file["positions"][:, 1] = file["positions"][0, 1] + np.sin(phase)[:, None] / angular * 0.05
        file["velocities"][:, 1] = np.cos(phase)[:, None] * 0.05

    path = spoiled(trajectory, tmp_path, stretching)
    with pytest.warns(
        LesPluginsWarning, match=r"do not add up to its displacements between frames 20 fs apart, by 96% of its motion"
    ):
        les_plugins_command("spectra", kind, path, "--resolution", 60)


def test_a_gap_in_the_times_is_refused(
    les_plugins_command: Callable[..., Done], trajectory: Path, tmp_path: Path
) -> None:
    def gap(file: Any) -> None:
        file["time"][700:] += 30.0

    done = les_plugins_command("spectra", "ir", spoiled(trajectory, tmp_path, gap), "--resolution", 60)
    assert done.code == 1
    assert (
        "time of frame 700 is 33 fs after that of frame 699, and timestep × every of its settings is 3" in done.errors
    )


def test_what_is_marked_stands_in_the_legend_and_the_model_in_the_title(
    les_plugins_command: Callable[..., Done], trajectory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    from les_plugins.plots import spectra

    drawn: list[tuple[Any, ...]] = []
    monkeypatch.setattr(spectra, "plot", lambda *given, **_: drawn.append(given))

    def named(file: Any) -> None:
        facts = {"model_weights_sha256": "0" * 64, "host": "toy", "model_name": "springs.les"}
        file.attrs["facts"] = json.dumps(json.loads(file.attrs["facts"]) | facts)

    common = (spoiled(trajectory, tmp_path, named), "--resolution", 60, "-o", tmp_path / "out")
    marks = ("--mark", 1640, "--mark", 3400.5, "--mark-label", "measured")
    assert les_plugins_command("spectra", "ir", *common, *marks).code == 0
    assert les_plugins_command("spectra", "raman", *common, "--reduced").code == 0
    legend, title, axis = drawn[0][9], drawn[0][5], drawn[1][3]
    assert legend == "measured: 1640, 3400.5 cm⁻¹"
    assert title.startswith("springs.les: 6 atoms, ")
    assert axis == "Raman χ'' ((e²·Å²/eV)²/fs)"


def test_the_highest_point_is_printed_with_its_own_value(
    les_plugins_command: Callable[..., Done], trajectory: Path, tmp_path: Path
) -> None:
    path = spoiled(trajectory, tmp_path, mobile)
    options = (path, "--resolution", 60, "--limits", 0, 4000)
    lines = les_plugins_command("spectra", "conductivity", *options, "--correlation-time", 100).output
    found = json.loads(les_plugins_command("spectra", "conductivity", *options, "--json").output)
    (values,) = (each["value"] for each in found["spectra"].values())
    assert f", {max(values):.4g} ±" in lines
