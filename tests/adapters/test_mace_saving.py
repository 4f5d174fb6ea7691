"""After a training with MACE: nothing loses the model, heads can be chosen, and impossible options are one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mace", reason="mace-torch is not installed: nox -s tests-mace")

import ase.io
import numpy as np
import torch
import yaml
from ase import Atoms
from ase.calculators.lj import LennardJones
from mace_models import waters

import les_plugins
from les_plugins import api
from les_plugins.adapters.mace import contract, seam
from les_plugins.errors import ConfigError, HostError, LesPluginsError
from les_plugins.hosting import registry as plugins
from les_plugins.storage import checkpoint

SETTINGS = {
    **contract.SETTINGS,
    "model": "ScaleShiftMACE",
    "max_num_epochs": 1,
    "hidden_irreps": "2x0e + 2x1o",
    "E0s": "{1: -1.0, 8: -2.0}",
    "energy_key": "REF_energy",
    "forces_key": "REF_forces",
    "train_file": "train.xyz",
    "valid_file": "valid.xyz",
    "long_range": {"multipoles": ["charge"]},
}


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, count in (("train.xyz", 2), ("valid.xyz", 2)):
        frames = []
        for seed in range(count):
            atoms = waters(1, seed=seed)
            atoms.calc = LennardJones(sigma=1.0, epsilon=0.05, rc=3.0)
            atoms.info["REF_energy"] = atoms.get_potential_energy()
            atoms.arrays["REF_forces"] = atoms.get_forces()
            atoms.calc = None
            frames.append(atoms)
        ase.io.write(tmp_path / name, frames, format="extxyz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*arguments: str, **changes: Any) -> Path:
    settings = {key: value for key, value in {**SETTINGS, **changes}.items() if value is not None}
    Path("c.yaml").write_text(yaml.safe_dump(settings))
    folder: Path = plugins.host("mace").train(Path("c.yaml"), arguments, {})
    return folder


def refusal(error: type[LesPluginsError], *arguments: str, **changes: Any) -> str:
    with pytest.raises(error) as caught:
        train(*arguments, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_model_of_two_heads_is_saved_and_each_of_them_can_be_loaded(les_plugins_command: Any) -> None:
    frames = ase.io.read("train.xyz", ":")
    for atoms in frames:
        atoms.info["REF_energy"] += 30.0
    ase.io.write("hse.xyz", frames, format="extxyz")
    heads = {
        name: {"train_file": file, "valid_file": file} for name, file in (("pbe", "train.xyz"), ("hse", "hse.xyz"))
    }
    folder = train(heads=heads, train_file=None, valid_file=None)
    assert checkpoint.read_config(folder)["metadata"]["gauge"]["frames"] > 0
    atoms = waters(1)
    pbe, hse = (les_plugins.load(folder, head=head) for head in ("pbe", "hse"))
    # MACE begins with the mean of each head's labels, and one epoch moves it by less than that
    assert hse.get_potential_energy(atoms) - pbe.get_potential_energy(atoms) == pytest.approx(30.0, abs=5.0)
    born = [calculator.get_property("born_effective_charges", atoms) for calculator in (pbe, hse)]
    assert np.array_equal(*born)
    with pytest.raises(HostError, match=r"has the heads .*pbe.*--head"):
        les_plugins.load(folder)
    with pytest.raises(HostError, match=r"head is 'ccsd'; allowed with this model: .*pbe"):
        les_plugins.load(folder, head="ccsd")
    done = les_plugins_command("predict", folder, "valid.xyz", "-o", "hse.extxyz", "--head", "hse", "--json")
    report = done.output[done.output.rindex('{\n "model"') :]  # MACE's log of the training stands before it
    assert json.loads(report)["model"]["head"] == "hse"
    predicted = ase.io.read("hse.extxyz", 0)
    assert predicted.get_potential_energy() == pytest.approx(hse.get_potential_energy(predicted), abs=1e-6)


def test_what_fails_after_the_last_epoch_does_not_lose_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("in the table of errors")

    monkeypatch.setattr(seam.run_train, "create_error_table", fail)
    message = refusal(HostError)
    assert "c.yaml: MACE stopped with ZeroDivisionError: in the table of errors" in message
    assert "its model is in tiny.les" in message
    kept = torch.load(next(Path("checkpoints").glob("*.pt")), weights_only=False)["model"]
    model, _ = api.load_model("tiny.les")
    for name, value in model.state_dict().items():  # the sign may have been turned
        assert torch.equal(value.double().abs(), kept[name].double().abs()), name


def test_a_place_where_the_checkpoint_cannot_be_written_is_refused_before_training() -> None:
    Path("tiny.les").mkdir()
    Path("tiny.les", "precious.txt").write_text("mine")
    with pytest.raises(LesPluginsError, match=r"tiny.les exists and is not a checkpoint"):
        train()
    assert not Path("checkpoints").exists()


def test_training_leaves_the_default_dtype_of_the_process_alone() -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        train("--dry_run", default_dtype="float64")
        assert torch.get_default_dtype() == torch.float32
    finally:
        torch.set_default_dtype(before)


@pytest.mark.training
def test_a_second_training_of_one_name_is_its_own() -> None:
    def energies(folder: Path) -> list[float]:
        return list(api.load_model(folder)[0].atomic_energies_fn.atomic_energies.flatten().tolist())

    assert energies(train(max_num_epochs=3)) == [-1.0, -2.0]
    message = refusal(ConfigError, restart_latest=True, E0s="{1: -1.5, 8: -2.0}")
    assert "an energy of the elements (E0s) is -1.5 eV here and -1 eV there" in message
    # MACE alone would load the checkpoint of the third epoch of the first training at the end
    assert energies(train(max_num_epochs=1, E0s="{1: -1.5, 8: -2.0}")) == [-1.5, -2.0]
    assert len(list(Path("checkpoints").glob("*.pt.earlier"))) == 1


@pytest.mark.training
def test_stage_two_and_other_models_at_a_restart_are_refused() -> None:
    train(restart_latest=True)
    assert "swa: stage two was not switched on" in refusal(
        ConfigError, "--restart_latest", "--swa", "--start_swa", "1", max_num_epochs=3
    )
    message = refusal(ConfigError, restart_latest=True, long_range={"multipoles": ["charge", "dipole"]})
    assert "of another model than this config file describes" in message
    assert "les_readouts" in message
    message = refusal(ConfigError, foundation_model="tiny.model", multiheads_finetuning=False, name="tuned")
    assert "foundation_model is tiny.model, a model of les-plugins" in message
    assert "start_from" in message
    assert "start_from" in refusal(ConfigError, foundation_model="tiny.les", name="tuned")


@pytest.mark.parametrize(
    ("arguments", "changes", "error", "words"),
    [
        ((), {"loss": "unheard_of"}, ConfigError, "--loss"),
        ((), {"long_rang": {}}, ConfigError, "did you mean 'long_range'"),
        ((), {"heads": {"a": {"long_range": {}}}}, ConfigError, "heads.a: unknown key 'long_range'"),
        (("--long_range", "{}"), {}, ConfigError, "stand in the config file"),
        (("--start_from", "x.les"), {}, ConfigError, "stand in the config file"),
        ((), {"hidden_irreps": "2x0e + 3x1o"}, HostError, "c.yaml: MACE stopped with AssertionError: All channels"),
        ((), {"MLP_irreps": "nonsense"}, HostError, "c.yaml: MACE stopped with ValueError"),
        ((), {"foundation_model": "absent.model"}, HostError, "absent.model"),
        ((), {"lr": 1e200}, HostError, "try a lower lr"),
    ],
)
def test_impossible_options_are_one_line(
    arguments: tuple[str, ...], changes: dict[str, Any], error: type[LesPluginsError], words: str
) -> None:
    assert words in refusal(error, *arguments, **changes)


def write_hdf5(path: Path, labels: list[dict[str, Any]]) -> None:
    """Frames as mace_prepare_data writes them."""
    import h5py
    from mace.data import Configuration
    from mace.data.utils import save_configurations_as_HDF5

    configurations = []
    for number, properties in enumerate(labels):
        atoms: Atoms = waters(1, seed=number)
        configurations.append(
            Configuration(
                atoms.numbers,
                atoms.positions,
                {"energy": -1.0, "forces": np.ones((3, 3)), **properties},
                {"energy": 1.0, "forces": 1.0},
                cell=atoms.cell.array,
                pbc=tuple(atoms.pbc),
            )
        )
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        save_configurations_as_HDF5(configurations, 0, file)


@pytest.mark.training
def test_the_sign_is_read_off_hdf5_data_too() -> None:
    write_hdf5(Path("h5/train.h5"), [{}, {}, {}])
    folder = train(train_file="h5/train.h5", valid_file="h5/train.h5", atomic_numbers="[1, 8]")
    config = checkpoint.read_config(folder)
    assert config["metadata"]["gauge"]["frames"] >= 2
    assert config["metadata"]["training_data"] == [
        {"file": "train.h5", "sha256": checkpoint.sha256(Path("h5/train.h5"))}
    ]
    assert json.loads((folder / "config.json").read_text())["susceptibility"] is None


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([{}, {"forces": None}, {}], "1 of 3 frames (config_batch_0/config_1, …) have no forces"),
        ([{"energy": None}] * 2, "2 of 2 frames"),
    ],
)
def test_labels_that_hdf5_data_lack_are_refused(labels: list[dict[str, Any]], words: str) -> None:
    write_hdf5(Path("h5/train.h5"), labels)
    with pytest.raises(LesPluginsError) as caught:
        train(train_file="h5/train.h5", valid_file="h5/train.h5", atomic_numbers="[1, 8]")
    assert "h5/train.h5: " in str(caught.value)
    assert words in str(caught.value)
