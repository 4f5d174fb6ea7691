"""Polarization against field of trajectories with a known answer (theory, section 11.7)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from command_line import Done
from toy_calculator import Toy, molecule

from les_plugins.dynamics import Settings, run
from les_plugins.errors import ConfigError, DataError, LesPluginsWarning
from les_plugins.spectra import directed
from les_plugins.spectra.field_response import Saturation, polarization_in_fields, saturation
from les_plugins.units import VACUUM_PERMITTIVITY

VOLUME, ELECTRONIC = 6.0 * 7.0 * 8.0, 1.78
AXIS = np.array([0.6, 0.0, 0.8])
TRUE = Saturation(20.0, 0.0, 0.02, 0.0)
ALPHA = np.diag([0.3, 0.4, 0.5])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("md") / "base.h5"
    chosen = Settings.of(ensemble="nvt", temperature=300.0, timestep=1.0, steps=600, every=1)
    run(Toy(), molecule(1, periodic=True, formula="OHHOHH"), output, chosen, {"epsilon_infinity": ELECTRONIC})
    return output


def in_field(base: Path, folder: Path, strength: float, noise: float = 0.02, source: str = "transfers") -> Path:
    """A run whose polarization is that of `TRUE`, a noise in e·Å about it, and what the field induces at once."""
    path = folder / f"field{strength:g}.h5"
    shutil.copy(base, path)
    field = strength * AXIS
    with h5py.File(path, "r+") as file:
        frames = len(file["time"])
        moved = VOLUME * float(TRUE.at(np.array([strength]))[0]) * AXIS
        moved = moved + noise * np.random.default_rng(int(1000 * strength)).standard_normal((frames, 3))
        settings = json.loads(file.attrs["settings"])
        vector = {"vector": field.tolist(), "center": None, "width": None, "wavenumber": 0.0}
        file.attrs["settings"] = json.dumps(settings | {"field": vector if strength else None})
        file.attrs["run"] = path.stem
        file.attrs["polarization_source"] = source
        file["positions"][0] += strength
        file["temperature"][...] = 300.0
        file["polarizability"][...] = ALPHA
        file["dipole"][...] = moved + field @ ALPHA
        file["field_work"][...] = (moved - moved[0]) @ field
    return path


def test_the_mean_polarization_and_the_fit_are_those_of_the_trajectories(base: Path, tmp_path: Path) -> None:
    fields = (0.0, 0.02, 0.05, 0.1, 0.15)
    points = polarization_in_fields([in_field(base, tmp_path, strength) for strength in reversed(fields)])
    assert tuple(point.field for point in points) == fields
    scatter = 0.02 / VOLUME / np.sqrt(601)  # of independent frames; five blocks know it to a third
    for point in points:
        assert point.error == pytest.approx(scatter, rel=1.0)
        assert point.polarization == pytest.approx(float(TRUE.at(np.array([point.field]))[0]), abs=5.0 * scatter)
        assert point.blocks == 5
        assert (point.booked is None) == (point.field == 0.0)
        assert point.booked is None or point.booked < 1e-9
    found = saturation(points)
    assert found is not None
    assert found.susceptibility == pytest.approx(20.0, abs=6.0 * found.susceptibility_error)
    assert found.limit == pytest.approx(0.02, abs=6.0 * found.limit_error)
    assert found.susceptibility_error < 1.0
    assert saturation(points[:2]) is None  # one field has no curvature


def test_a_saturating_response_begins_linearly_and_ends_at_its_limit() -> None:
    weak, strong = TRUE.at(np.array([1e-7, 1e3]))
    assert weak == pytest.approx(VACUUM_PERMITTIVITY * 20.0 * 1e-7, rel=1e-6)
    assert strong == pytest.approx(0.02, rel=1e-3)
    np.testing.assert_allclose(TRUE.at(np.array([-0.1])), -TRUE.at(np.array([0.1])))


def test_what_has_no_mean_polarization_is_refused(base: Path, tmp_path: Path) -> None:
    within = in_field(base, tmp_path, 0.1)
    (tmp_path / "phases").mkdir()
    made_with_phases = in_field(base, tmp_path / "phases", 0.05, source="phases")
    with pytest.raises(DataError, match="its dipole is made with phases"):
        polarization_in_fields([made_with_phases])
    with pytest.raises(ConfigError, match="no trajectory ran in a field"):
        polarization_in_fields([in_field(base, tmp_path, 0.0)])
    other = in_field(base, tmp_path, 0.05)
    with h5py.File(other, "r+") as file:
        settings = json.loads(file.attrs["settings"])
        settings["field"]["vector"] = [0.05, 0.0, 0.0]
        file.attrs["settings"] = json.dumps(settings)
    with pytest.raises(ConfigError, match=r"its field \[0.05, 0.0, 0.0\] V/Å is not along \[0.6, 0.0, 0.8\]"):
        polarization_in_fields([within, other])
    with h5py.File(other, "r+") as file:
        settings["field"]["center"] = 100.0
        file.attrs["settings"] = json.dumps(settings)
    with pytest.raises(ConfigError, match="a field that changes with time; this needs static ones"):
        polarization_in_fields([within, other])
    with pytest.raises(DataError, match="is the same run as"):
        polarization_in_fields([within, within])


def test_the_command_prints_every_field_and_what_follows(
    base: Path, tmp_path: Path, les_plugins_command: Callable[..., Done]
) -> None:
    pytest.importorskip("matplotlib")
    paths = [in_field(base, tmp_path, strength) for strength in (0.0, 0.05, 0.1)]
    done = les_plugins_command("analyze", "polarization", *paths, "-o", tmp_path / "p")
    assert done.code == 0, done.errors
    assert "0.05 V/Å: P = 0.00" in done.output
    assert "work of the field less change of E·V·P: at most" in done.output
    assert "ε_0 = ε_∞ + χ = 2" in done.output
    assert (tmp_path / "p.png").stat().st_size > 5_000
    report = json.loads(les_plugins_command("analyze", "polarization", *paths, "--from-zero-field", "--json").output)
    assert report["values"]["epsilon_0_of_fit"] == pytest.approx(ELECTRONIC + 20.0, rel=0.2)
    point = report["points"][2]
    expected = ELECTRONIC + point["polarization_e/A2"] / (VACUUM_PERMITTIVITY * 0.1)
    assert point["epsilon"] == pytest.approx(expected, rel=1e-9)
    done = les_plugins_command("analyze", "polarization", *paths[1:], "--from-zero-field")
    assert (done.code, "none of the trajectories ran without a field" in done.errors) == (1, True)


def test_directed_currents_of_an_isotropic_sample_keep_their_power() -> None:
    currents = np.random.default_rng(0).standard_normal((200_000, 3))
    for across in (False, True):
        (found,) = directed([currents], AXIS, across)
        # 200,000 numbers know their variance to 0.3 %
        assert (found**2).sum(1).mean() == pytest.approx(3.0, rel=0.02)
        assert np.abs(found @ AXIS).max() > 1.0 if not across else np.abs(found @ AXIS).max() < 1e-12
    with pytest.raises(ConfigError, match="the axis is"):
        directed([currents], (0.0, 0.0, 0.0))


def test_a_polarization_that_grows_without_end_is_warned_of(base: Path, tmp_path: Path) -> None:
    path = in_field(base, tmp_path, 0.05)
    with h5py.File(path, "r+") as file:
        file["dipole"][...] += 1e-3 * np.arange(len(file["time"]))[:, None] * AXIS
    with pytest.warns(LesPluginsWarning, match="its polarization goes on growing"):
        polarization_in_fields([in_field(base, tmp_path, 0.0), path])
