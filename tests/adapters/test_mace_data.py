"""What MACE reads of the files of a run, after they were looked at: labels, weights, isolated atoms, heads."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mace", reason="mace-torch is not installed: nox -s tests-mace")

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from mace.data import KeySpecification, update_keyspec_from_kwargs
from mace.data import utils as mace_data
from mace.tools.scripts_utils import get_config_type_weights, get_dataset_from_xyz
from mace_models import waters

from les_plugins.adapters.mace.data import Found, read_data, reading
from les_plugins.adapters.mace.train import parse_arguments
from les_plugins.errors import ConfigError, DataError, LesPluginsError, LesPluginsWarning

CONFIG = Path("c.yaml")
ASE_NAMES = {"energy_key": "energy", "forces_key": "forces", "stress_key": "stress"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def frame(seed: int = 0) -> Atoms:
    """Two water molecules in a periodic box, with labels under ASE's names."""
    atoms = waters(2, seed=seed)
    generator = np.random.default_rng(seed)
    forces, stress = generator.normal(size=(len(atoms), 3)), generator.normal(size=6)
    atoms.calc = SinglePointCalculator(atoms, energy=-20.0 - seed, forces=forces, stress=stress)
    return atoms


def write(name: str, frames: list[Atoms]) -> None:
    ase.io.write(name, frames, format="extxyz")


def read(**settings: Any) -> tuple[Any, Found]:
    defaults = {
        "name": "t",
        "train_file": "train.xyz",
        "valid_file": "valid.xyz",
        "E0s": "average",
        "batch_size": 2,
        **ASE_NAMES,
    }
    given = {key: value for key, value in {**defaults, **settings}.items() if value is not None}
    args = parse_arguments(given, [], CONFIG)
    return args, read_data(args, CONFIG)


def as_mace_reads(args: Any, found: Found) -> tuple[Any, dict[int, float]]:
    """MACE's own collections and energies of isolated atoms."""
    keys = update_keyspec_from_kwargs(KeySpecification(), vars(args))
    with reading(found):
        return get_dataset_from_xyz(
            work_dir=".",
            train_path=args.train_file,
            valid_path=args.valid_file,
            valid_fraction=0.1,
            key_specification=keys,
            config_type_weights=get_config_type_weights(args.config_type_weights),
        )


def refusal(error: type[LesPluginsError], **settings: Any) -> str:
    with pytest.raises(error) as caught:
        read(**settings)
    return str(caught.value)


@pytest.fixture
def files(folder: Path) -> Path:
    write("train.xyz", [frame(seed) for seed in range(4)])
    write("valid.xyz", [frame(9)])
    return folder


def test_labels_under_ases_names_are_read_exactly(files: Path) -> None:
    args, found = read(loss="stress")
    sets, _ = as_mace_reads(args, found)
    assert found.keys == ASE_NAMES
    for seed, got in enumerate(sets.train):
        results = ase.io.read("train.xyz", seed).calc.results
        for name in ("energy", "forces", "stress"):
            assert np.array_equal(got.properties[name], results[name]), name
            assert got.property_weights[name] == 1.0
    assert mace_data.ase is ase  # the seam is closed


def test_frames_without_a_label_have_no_weight_in_the_loss(files: Path) -> None:
    frames = [frame(seed) for seed in range(4)]
    del frames[1].calc.results["forces"], frames[2].calc.results["energy"]
    write("train.xyz", frames)
    with pytest.warns(LesPluginsWarning) as said:
        args, found = read(E0s="{1: -1.0, 8: -2.0}")
    assert "1 of 4 frames (frame 2) without energy under the name 'energy'" in str(said[0].message)
    assert "1 of 4 frames (frame 1) without forces under the name 'forces'" in str(said[1].message)
    sets, _ = as_mace_reads(args, found)
    assert [config.property_weights["energy"] for config in sets.train] == [1.0, 1.0, 0.0, 1.0]
    assert [config.property_weights["forces"] for config in sets.train] == [1.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("loss", ["huber", "l1l2energyforces"])
def test_a_loss_that_has_no_weights_of_frames_needs_every_label(files: Path, loss: str) -> None:
    frames = [frame(seed) for seed in range(4)]
    del frames[1].calc.results["forces"]
    frames[1].info["config_forces_weight"] = 0.0
    write("train.xyz", frames)
    assert "1 of 4 frames (frame 1) without forces under the name 'forces'" in refusal(DataError, loss=loss)


def test_average_energies_of_atoms_need_every_energy(files: Path) -> None:
    frames = [frame(seed) for seed in range(4)]
    del frames[2].calc.results["energy"]
    write("train.xyz", frames)
    with pytest.warns(LesPluginsWarning):
        message = refusal(DataError)
    assert "train.xyz, frame 2: has no 'energy'" in message


def test_forces_of_fixed_atoms_are_those_of_the_file(files: Path) -> None:
    frames = [frame(seed) for seed in range(4)]
    for atoms in frames:
        atoms.set_constraint(FixAtoms([0, 1]))
    write("train.xyz", frames)
    args, found = read()
    sets, _ = as_mace_reads(args, found)
    # the file has eight decimals
    assert np.allclose(sets.train[0].properties["forces"], frames[0].calc.results["forces"], rtol=0, atol=1e-8)
    assert not ase.io.read("train.xyz", 0).get_forces()[:2].any()


@pytest.mark.parametrize("names", [ASE_NAMES, {"energy_key": "REF_energy", "forces_key": "REF_forces"}])
def test_energies_of_isolated_atoms_are_read(folder: Path, names: dict[str, str]) -> None:
    frames = [frame(seed) for seed in range(3)]
    for symbol, energy in (("H", -13.5), ("O", -432.0)):
        atom = Atoms(symbol, info={"config_type": "IsolatedAtom"})
        atom.calc = SinglePointCalculator(atom, energy=energy)
        frames.insert(0, atom)
    if names is not ASE_NAMES:
        for atoms in frames:
            atoms.info["REF_energy"] = atoms.calc.results["energy"]
            if "forces" in atoms.calc.results:
                atoms.arrays["REF_forces"] = atoms.calc.results["forces"]
            atoms.calc = None
    write("train.xyz", frames)
    write("valid.xyz", frames[2:])
    args, found = read(**names, E0s=None)
    sets, energies = as_mace_reads(args, found)
    assert energies == {1: -13.5, 8: -432.0}
    assert len(sets.train) == 3


def test_an_isolated_atom_without_its_energy_is_refused(files: Path) -> None:
    atom = Atoms("O", info={"config_type": "IsolatedAtom", "energy_dft": -432.0})
    write("train.xyz", [frame(0), atom])
    assert "train.xyz, frame 1: is an isolated atom" in (message := refusal(DataError, E0s=None))
    assert "energy_dft" in message


@pytest.mark.parametrize(("energies", "words"), [((-13.5, -13.6), "frame 2: is an"), ((np.nan, np.nan), "frame 1:")])
def test_isolated_atoms_of_one_element_agree(files: Path, energies: tuple[float, ...], words: str) -> None:
    atoms = [Atoms("H", info={"config_type": "IsolatedAtom"}) for _ in energies]
    for atom, energy in zip(atoms, energies, strict=True):
        atom.calc = SinglePointCalculator(atom, energy=energy)
    write("train.xyz", [frame(0), *atoms])
    assert f"train.xyz, {words}" in refusal(DataError, E0s=None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"1": -1.0, "8": -2.0, "6": 0.0}', "has energies of C"),
        ('{"1": -1.0}', "has no energy of O"),
        ('{"1": -1.0, "O": -2.0}', "e0.json has 'O'"),
        ('{"1": -1.0, "8": NaN}', "e0.json has 8: nan"),
        ('{"1": -1.0', "cannot be read as JSON"),
    ],
)
def test_energies_of_atoms_in_a_json_file_are_looked_at(files: Path, text: str, words: str) -> None:
    Path("e0.json").write_text('{"1": -1.0, "8": -2}', encoding="utf-8")
    read(E0s="e0.json")
    Path("e0.json").write_text(text, encoding="utf-8")
    assert words in refusal(ConfigError, E0s="e0.json")


def test_isolated_atoms_of_some_elements_only_are_refused(files: Path) -> None:
    atom = Atoms("O", info={"config_type": "IsolatedAtom"})
    atom.calc = SinglePointCalculator(atom, energy=-432.0)
    write("train.xyz", [frame(0), atom])
    assert "none of H" in refusal(DataError, E0s=None)


def test_a_key_that_no_frame_has_is_refused_for_every_label_that_is_trained_on(files: Path) -> None:
    assert "none of 4 frames has forces under the name 'REF_forces'" in refusal(DataError, forces_key="REF_forces")
    assert "none of 4 frames has stress under the name 'REF_stress'" in refusal(
        DataError, stress_key="REF_stress", loss="stress"
    )
    assert "none of 4 frames has virials under the name 'REF_virials'" in refusal(DataError, loss="virials")
    read(stress_key="REF_stress")  # the default loss has no stress
    read(stress_key="REF_stress", loss="universal", stress_weight=0.0)
    read(forces_key="REF_forces", forces_weight=0.0)
    with pytest.raises(DataError, match="forces"):  # the second stage has a weight
        read(forces_key="REF_forces", forces_weight=0.0, swa=True)


def test_labels_of_the_validation_file_are_looked_at(files: Path) -> None:
    bare = frame(9)
    del bare.calc.results["forces"]
    write("valid.xyz", [bare])
    assert "valid.xyz: none of 1 frames has forces" in refusal(DataError)


def test_labels_and_elements_of_the_test_file_are_looked_at(files: Path) -> None:
    sulphur, bare = frame(3), frame(4)
    sulphur.numbers[0], bare.calc = 16, None
    write("test.xyz", [sulphur])
    assert "test.xyz" in (message := refusal(DataError, test_file="test.xyz"))
    assert "does not know S" in message
    write("test.xyz", [bare])
    assert "test.xyz: none of 1 frames has energy" in refusal(DataError, test_file="test.xyz")


def test_frames_of_weight_zero_need_no_label(files: Path) -> None:
    frames = [frame(seed) for seed in range(4)]
    del frames[1].calc.results["forces"], frames[2].calc.results["forces"]
    frames[1].info["config_forces_weight"] = 0.0
    frames[2].info["config_type"] = "energies"
    write("train.xyz", frames)
    read(config_type_weights='{"energies": 0.0}')


def test_the_stress_of_an_open_frame_is_refused(files: Path) -> None:
    frames = [frame(seed) for seed in range(4)]
    frames[3].pbc = False
    write("train.xyz", frames)
    assert "train.xyz, frame 3: has a 'stress' but is open" in refusal(DataError, loss="stress")


def test_labels_that_are_no_numbers_are_refused(files: Path) -> None:
    frames = [frame(seed) for seed in range(4)]
    frames[2].calc.results["stress"][0] = np.nan
    write("train.xyz", frames)
    assert "train.xyz, frame 2: stress holds NaN" in refusal(DataError, loss="stress")


def heads(**changes: Any) -> dict[str, Any]:
    one = {"train_file": "train.xyz", "valid_file": "valid.xyz", "E0s": "average"}
    return {"pbe": {**one, "energy_key": "pbe_energy", "forces_key": "pbe_forces"}, "hse": {**one, **changes}}


@pytest.fixture
def two_heads(folder: Path) -> Path:
    """Files in which each frame has labels of two methods."""
    for name, count in (("train.xyz", 3), ("valid.xyz", 1)):
        frames = [frame(seed) for seed in range(count)]
        for atoms in frames:
            atoms.info["pbe_energy"] = -30.0
            atoms.arrays["pbe_forces"] = np.ones((len(atoms), 3))
        write(name, frames)
    return folder


def test_heads_have_keys_of_their_own(two_heads: Path) -> None:
    args, _ = read(heads=heads(), train_file=None, valid_file=None)
    assert "ASE_energy" not in args.heads  # the second head takes the keys of the run
    assert args.energy_key == "ASE_energy"
    args, _ = read(heads=heads(energy_key="energy", arrays_keys={"forces": "forces"}), energy_key=None, forces_key=None)
    assert "'energy_key': 'ASE_energy'" in args.heads
    assert "'arrays_keys': {'forces': 'ASE_forces'}" in args.heads
    assert args.energy_key == "REF_energy"


def test_a_label_that_one_head_lacks_is_refused(two_heads: Path) -> None:
    message = refusal(DataError, heads=heads(forces_key="hse_forces"), train_file=None, valid_file=None)
    assert "none of 3 frames has forces under the name 'hse_forces'" in message
    assert "pbe_forces" in message


def test_a_misspelt_key_of_a_head_is_refused(two_heads: Path) -> None:
    given = {"train_file": None, "valid_file": None}
    assert "heads.hse: unknown key 'forces_keyy' (did you mean 'forces_key'?)" in refusal(
        ConfigError, heads=heads(forces_keyy="hse_forces"), **given
    )
    assert "heads.hse: unknown key 'long_rang'" in refusal(ConfigError, heads=heads(long_rang={}), **given)


def test_energies_of_atoms_of_a_head_reach_mace_as_text(two_heads: Path) -> None:
    args, _ = read(heads=heads(E0s={1: -1.0, 8: -2.0}), train_file=None, valid_file=None)
    assert "{1: -1.0, 8: -2.0}" in [head["E0s"] for head in ast.literal_eval(args.heads).values()]


@pytest.mark.parametrize("wrong", [{"info_keys": ["energy"]}, {"arrays_keys": "forces"}, {"train_file": 5}])
def test_values_of_a_head_of_another_kind_are_refused(two_heads: Path, wrong: dict[str, Any]) -> None:
    (key,) = wrong
    assert f"heads.hse.{key} is " in refusal(ConfigError, heads=heads(**wrong), train_file=None, valid_file=None)
    message = refusal(ConfigError, heads={1: heads()["hse"]}, train_file=None, valid_file=None)
    assert "the name of a head is 1" in message


def test_weights_of_config_types_of_a_head_reach_mace(two_heads: Path) -> None:
    args, _ = read(heads=heads(config_type_weights={"bulk": 2.0}), train_file=None, valid_file=None)
    (text,) = (
        head["config_type_weights"] for head in ast.literal_eval(args.heads).values() if "config_type_weights" in head
    )
    assert get_config_type_weights(text) == {"bulk": 2.0}


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"E0s": None}, ConfigError, "E0s is missing"),
        ({"E0s": "{1: 0.0}"}, ConfigError, "has no energy of O"),
        ({"E0s": "{1: 0.0, 6: 0.0, 8: 0.0}"}, ConfigError, "has energies of C, which the data do not have"),
        ({"E0s": "nonsense"}, ConfigError, "E0s is 'nonsense'"),
        ({"E0s": "{'H': -1.0, 'O': -2.0}"}, ConfigError, "E0s has 'H': -1.0; expected atomic numbers"),
        ({"E0s": {1: -1.0, 8: "x"}}, ConfigError, "E0s has 8: 'x'; expected atomic numbers"),
        ({"E0s": "absent.json"}, ConfigError, "absent.json"),
        ({"E0s": "foundation"}, ConfigError, "foundation_model; none is given"),
        ({"config_type_weights": "bulk: 2"}, ConfigError, "config_type_weights is 'bulk: 2'"),
        ({"atomic_numbers": "[8]"}, DataError, "does not know H"),
        ({"batch_size": 5}, ConfigError, "batch_size is 5, with 4 training frames"),
        ({"loss": "dipole"}, ConfigError, "loss is 'dipole'"),
        ({"valid_file": "absent.xyz"}, DataError, "absent.xyz: no such file"),
        ({"heads": "nonsense"}, ConfigError, "heads is 'nonsense'"),
    ],
)
def test_options_that_mace_cannot_use_are_refused(
    files: Path, settings: dict[str, Any], error: type[LesPluginsError], words: str
) -> None:
    assert words in refusal(error, **settings)


def test_average_energies_do_not_go_with_replayed_data(files: Path) -> None:
    message = refusal(ConfigError, foundation_model="small", multiheads_finetuning=True)
    assert "multiheads_finetuning" in message
