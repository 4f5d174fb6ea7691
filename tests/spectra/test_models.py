"""Spectra of several models: mean, sampling, and what lies between the models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from command_line import Done
from toy_calculator import Toy, molecule

from les_plugins.dynamics import Settings, run
from les_plugins.errors import DataError
from les_plugins.spectra import Spectrum, by_model, over_models


def trajectory(
    path: Path, model: str, amplitude: float, temperature: float = 300.0, seed: int = 1, epsilon: float = 2.0
) -> Path:
    """A run whose current is overwritten with one oscillation."""
    settings = Settings.of(ensemble="nvt", temperature=temperature, timestep=1.0, steps=400, every=1, seed=seed)
    facts = {"model_weights_sha256": model * 64, "host": "toy", "epsilon_infinity": epsilon}
    run(Toy(), molecule(seed, periodic=True, formula="OHHOHH"), path, settings, facts)
    with h5py.File(path, "r+") as file:
        time = file["time"][...]
        file["current"][...] = amplitude * np.cos(0.4 * time)[:, None]
        file["temperature"][...] = temperature
        file["positions"][0] += 1e-4 * seed
    return path


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [trajectory(folder / f"{name}.h5", name, scale) for name, scale in (("a", 1.0), ("b", 2.0))]


def test_mean_and_deviation_are_those_of_the_models() -> None:
    axis, notes = np.arange(4.0), {"trajectories": 1, "blocks": 2}
    values, errors = np.array([[1.0, 2, 3, 4], [3.0, 2, 1, 0]]), np.array([[0.3] * 4, [0.4] * 4])
    parts = [Spectrum(axis, v, e, "n α", "cm⁻¹", 2, notes) for v, e in zip(values, errors, strict=True)]
    found = over_models(parts)
    np.testing.assert_allclose(found.value, [2, 2, 2, 2])
    np.testing.assert_allclose(found.model_error, np.sqrt(2.0) * np.array([1, 0, 1, 2]))
    np.testing.assert_allclose(found.error, 0.25)  # 0.5, of two independent ones, over two
    np.testing.assert_allclose(found.times(3.0, "x", "").model_error, 3 * found.model_error)
    assert len(found.between(0.5, 2.5).model_error) == 2


def test_a_part_without_an_error_leaves_none() -> None:
    axis = np.arange(2.0)
    parts = [Spectrum(axis, axis, error, "x", "", 1, {}) for error in (None, np.ones(2))]
    assert over_models(parts).error is None


def test_infrared_of_two_models(paths: list[Path], tmp_path: Path, les_plugins_command: Callable[..., Done]) -> None:
    arguments = ("--resolution", "200", "--json")
    alone = [json.loads(les_plugins_command("spectra", "ir", path, *arguments).output) for path in paths]
    both = json.loads(les_plugins_command("spectra", "ir", *paths, "--by-model", *arguments).output)
    values = np.array([next(iter(each["spectra"].values()))["value"] for each in alone])
    found = next(iter(both["spectra"].values()))
    np.testing.assert_allclose(found["value"], values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found["model_error"], values.std(0, ddof=1), rtol=1e-12, atol=1e-12)
    assert both["samples"]["frames"] == 802
    output = tmp_path / "ir"
    assert les_plugins_command("spectra", "ir", *paths, "--by-model", "--resolution", "200", "-o", output).code == 0
    assert "model error of" in (tmp_path / "ir.csv").read_text()
    assert (tmp_path / "ir.png").is_file()


def test_trajectories_of_two_models_are_not_averaged_unasked(
    paths: list[Path], les_plugins_command: Callable[..., Done]
) -> None:
    assert les_plugins_command("spectra", "ir", *paths, "--resolution", "200").code == 1


def test_one_model_is_refused(paths: list[Path]) -> None:
    with pytest.raises(DataError, match="one model"):
        by_model(paths[:1])


def test_models_of_two_states_are_refused(paths: list[Path], tmp_path: Path) -> None:
    hot = trajectory(tmp_path / "hot.h5", "c", 1.0, temperature=600.0, seed=2)
    with pytest.raises(DataError, match="temperature"):
        by_model([paths[0], hot])


def test_models_whose_results_are_scaled_by_other_permittivities_are_refused(paths: list[Path], tmp_path: Path) -> None:
    other = trajectory(tmp_path / "other.h5", "c", 1.0, seed=2, epsilon=5.0)
    with pytest.raises(DataError, match=r"other\.h5: ε_∞ is 5 and that of .*a\.h5 is 2; .*--epsilon-infinity"):
        by_model([paths[0], other])
    near = trajectory(tmp_path / "near.h5", "d", 1.0, seed=3, epsilon=2.02)  # of trained screening
    by_model([paths[0], near])
