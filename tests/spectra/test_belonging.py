"""Which trajectories are averaged, with what of their own, and which are refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from toy_calculator import Toy, molecule

from les_plugins.dynamics import Settings, run
from les_plugins.errors import ConfigError, DataError
from les_plugins.spectra import Samples
from les_plugins.storage import zoo

FACTS = {"model_weights_sha256": "a" * 64, "host": "toy", "epsilon_infinity": 2.0}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("md") / "one.h5"
    chosen = Settings.of(ensemble="nvt", temperature=300.0, timestep=1.0, steps=60, every=3)
    run(Toy(), molecule(1, periodic=True, formula="OHHOHH"), output, chosen, FACTS)
    with h5py.File(output, "r+") as file:
        file["temperature"][...] = 300.0
    return output


def copied(base: Path, folder: Path, change: Callable[[Any], None], name: str = "two.h5") -> Path:
    """Another run of the same system, with something changed."""
    path = folder / name
    shutil.copy(base, path)
    with h5py.File(path, "r+") as file:
        file.attrs["run"] = path.stem
        file["positions"][0] += 1e-4 * sum(map(ord, name))
        change(file)
    return path


def setting(key: str, value: Any) -> Callable[[Any], None]:
    def change(file: Any) -> None:
        file.attrs["settings"] = json.dumps(json.loads(file.attrs["settings"]) | {key: value})

    return change


def fact(key: str, value: Any) -> Callable[[Any], None]:
    def change(file: Any) -> None:
        file.attrs["facts"] = json.dumps(json.loads(file.attrs["facts"]) | {key: value})

    return change


def data(key: str, function: Callable[[Any], Any]) -> Callable[[Any], None]:
    def change(file: Any) -> None:
        file[key][...] = function(file[key][...])

    return change


def halved(file: Any) -> None:
    """Frames half as far apart."""
    file["time"][...] *= 0.5


def attribute(key: str, value: Any) -> Callable[[Any], None]:
    return lambda file: file.attrs.__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (data("numbers", lambda z: z[::-1].copy()), "the same elements in another order"),
        (data("numbers", lambda z: np.where(z == 1, 8, z)), "has other atoms than"),
        (data("masses", lambda m: np.where(m < 2, 2.014, m)), r"mass of atom 1 is 2\.014 u and that of .* is 1\.008 u"),
        (data("pbc", lambda p: np.zeros(3, bool)), "pbc is F F F and that of .* is T T T"),
        (data("pbc", lambda p: np.array([True, True, False])), "pbc is T T F and that of"),
        (
            lambda f: (setting("timestep", 0.5)(f), halved(f)),
            r"frames 1\.5 fs apart and .* 3 fs; trajectories must have one interval",
        ),
        (lambda f: (setting("timestep", 0.5)(f), setting("every", 6)(f)), r"timestep is 0\.5 and that of .* is 1\.0"),
        (setting("sum_rule", False), "sum_rule is False and that of"),
        (setting("temperature", 310.0), "temperature is 310 K and that of .* is 300 K"),
        (setting("field", {"vector": [0.0, 0.0, 0.1]}), r"field is vector \[0\.0, 0\.0, 0\.1\] and that of .* is none"),
        (setting("thermostat", "langevin"), r"Langevin friction is 0\.01/fs and that of .* is 0/fs"),
        (fact("model_weights_sha256", "b" * 64), r"weights of the model \(SHA-256\) is bbbbbbbbbbbb and that of"),
        (fact("epsilon_infinity", 1.78), r"ε_∞ is 1\.78 and that of .* is 2\.0"),
        (fact("epsilon_infinity", None), r"ε_∞ is not given and that of .* is 2\.0"),
        (setting("temperature", 300.0001), r"temperature is 300\.0001 K and that of .* is 300 K"),
        (fact("head", "pbe"), "head of the model is pbe and that of .* is the default"),
        (fact("host", "other"), "host is other and that of"),
        (data("temperature", lambda t: 1.5 * t), r"mean temperature is 450\.0 K and that of .* is 300\.0 K"),
        (data("cell", lambda c: 1.05 * c), r"volume is 388\.962 Å³ and that of .* is 336 Å³"),
        (data("cell", lambda c: c * np.array([1.3, 1.0, 1.0 / 1.3])), "cell is .* and that of"),
        (attribute("degrees_of_freedom", 18), "constraints is 18 degrees of freedom and that of .* is 15"),
        (attribute("constraints", '[{"name": "FixAtoms", "kwargs": {"indices": [0]}}]'), "constraints is"),
        (lambda f: f.attrs.__setitem__("susceptibility", 0.9), r"χ is 0\.9 and that of .* is 0\.4"),
    ],
)
def test_what_does_not_belong_together_is_refused_with_both_values(
    base: Path, tmp_path: Path, change: Callable[[Any], None], message: str
) -> None:
    one = copied(base, tmp_path, attribute("susceptibility", 0.4), "one.h5")
    two = copied(base, tmp_path, lambda file: (attribute("susceptibility", 0.4)(file), change(file)))
    with pytest.raises(DataError, match=message) as refused:
        Samples.open([one, two])
    assert str(one) in str(refused.value)
    assert str(two) in str(refused.value)


def test_constant_pressures_differ_where_volumes_hardly_do(base: Path, tmp_path: Path) -> None:
    def npt(pressure: float) -> Callable[[Any], None]:
        return lambda file: (setting("ensemble", "npt")(file), setting("pressure", pressure)(file))

    one, two = (copied(base, tmp_path, npt(pressure), f"{pressure}.h5") for pressure in (1.0, 1e4))
    with pytest.raises(DataError, match=r"pressure is 10000 bar and that of .* is 1 bar"):
        Samples.open([one, two])


def test_a_run_counts_once(base: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is the same run as"):
        Samples.open([base, base])
    shutil.copy(base, tmp_path / "copy.h5")
    with pytest.raises(DataError, match="is the same run as"):
        Samples.open([base, tmp_path / "copy.h5"])
    with h5py.File(tmp_path / "copy.h5", "r+") as file:  # simulated twice with the same seeds
        file.attrs["run"] = "another"
    with pytest.raises(DataError, match="holds the same frames as"):
        Samples.open([base, tmp_path / "copy.h5"])


def test_fluctuations_are_no_differences_and_each_trajectory_keeps_its_own_values(base: Path, tmp_path: Path) -> None:
    two = copied(
        base, tmp_path, lambda f: (data("temperature", lambda t: t + 9.0)(f), data("cell", lambda c: 1.003 * c)(f))
    )
    samples = Samples.open([base, two])
    assert samples.temperatures() == pytest.approx([300.0, 309.0])
    assert samples.volumes() == pytest.approx([336.0, 336.0 * 1.003**3])
    assert samples.temperature() == pytest.approx(304.5)
    assert samples.volume() == pytest.approx(168.0 * (1.0 + 1.003**3))


def test_currents_have_one_screening(base: Path, tmp_path: Path) -> None:
    def one_and_two(second: float) -> list[Path]:
        return [copied(base, tmp_path, attribute("susceptibility", chi), f"{chi}.h5") for chi in (0.40, second)]

    samples = Samples.open(one_and_two(0.44))
    raw, scaled = samples.series("current"), samples.currents()
    # ε_e of each run was ε_∞/(1 + χ); of all it is that of the mean 1 + χ
    np.testing.assert_allclose(scaled[0], raw[0] * np.sqrt(1.40 / 1.42), rtol=1e-12)
    np.testing.assert_allclose(scaled[1], raw[1] * np.sqrt(1.44 / 1.42), rtol=1e-12)
    np.testing.assert_allclose(samples.polarizabilities()[1], samples.series("polarizability")[1] * 1.44 / 1.42)
    np.testing.assert_allclose(samples.currents(4.5)[0], scaled[0] * 1.5, rtol=1e-12)
    with pytest.raises(ConfigError, match=r"--epsilon-infinity is 0\.9; allowed: a number of at least 1"):
        samples.currents(0.9)
    unknown = copied(base, tmp_path, fact("epsilon_infinity", None), "unknown.h5")
    with pytest.raises(DataError, match="does not say with which ε_∞ it was made"):
        Samples.open([unknown]).currents(2.0)


def test_values_that_are_not_finite_are_named_with_their_frame(base: Path, tmp_path: Path) -> None:
    def spoiled(file: Any) -> None:
        file["current"][7, 1] = np.nan

    samples = Samples.open([copied(base, tmp_path, spoiled)])
    with pytest.raises(DataError, match=r"two\.h5: current of frame 7 holds a value that is not finite"):
        samples.currents()


def test_a_cell_that_breathes_does_not_move_atoms_in_fractions_of_it(base: Path, tmp_path: Path) -> None:
    scales = 1.0 + 0.02 * np.sin(np.arange(21.0))[:, None, None]

    def breathing(file: Any) -> None:
        start = file["positions"][0] + np.array([500.0, 0.0, -300.0])  # unwrapped, far from the origin
        file["positions"][...] = start * scales
        file["cell"][...] = file["cell"][0] * scales

    (found,) = Samples.open([copied(base, tmp_path, breathing)]).positions()
    np.testing.assert_allclose(found, np.broadcast_to(found[0], found.shape), atol=1e-10)
    (still,) = Samples.open([base]).positions()
    np.testing.assert_array_equal(still, Samples.open([base]).series("positions")[0])


def test_a_model_of_the_zoo_has_its_name(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = zoo.entry("water-free").sha256["weights.safetensors"]
    (known, unknown) = (
        Samples.open([copied(base, tmp_path, fact("model_weights_sha256", each), f"{place}.h5")])
        for place, each in enumerate((weights, "a" * 64))
    )
    assert known.title.startswith("water-free: 6 atoms, 300 K, ")
    assert unknown.title.startswith("toy aaaaaaaa: 6 atoms, 300 K, ")
    monkeypatch.setattr(zoo, "root", lambda: tmp_path)
    (tmp_path / zoo.MANIFEST).write_text("{}")  # damaged
    assert known.title.startswith("toy ")
