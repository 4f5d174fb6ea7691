"""The zoo: found by name, verified byte by byte, refused where changed. On a zoo made here, of a toy host."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import ase.io
import pytest
from ase import Atoms
from torch import nn
from toy_host import ToyHost

import les_plugins
from les_plugins.cli import zoo as commands
from les_plugins.cli.shared import open_model
from les_plugins.errors import CheckpointError, DataError, LesPluginsError
from les_plugins.storage import zoo
from les_plugins.storage.checkpoint import CONFIG, WEIGHTS


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_plugins: Callable[..., None]) -> Path:
    """A zoo with one model, "toy-one"."""
    with_plugins(toy=ToyHost())
    root = tmp_path / "zoo"
    model = les_plugins.save(nn.Linear(3, 1), root / "toy-one", "toy")
    (model / zoo.CARD).write_text("# toy-one\n", encoding="utf-8")
    (model / zoo.METRICS).write_text('{"name": "toy-one"}', encoding="utf-8")
    (model / zoo.PREDICTIONS).write_text("{}", encoding="utf-8")
    (root / "structures").mkdir()
    zoo.write_manifest(root)
    monkeypatch.setattr(zoo, "root", lambda: root)
    return root


def test_a_model_loads_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, metadata, device = les_plugins.load("toy-one")
    assert (type(model), metadata["host"], device) == (nn.Linear, "toy", "cpu")
    _, facts = open_model(Path("toy-one"), "cpu")
    assert facts["path"] == str(zoo.root() / "toy-one")


def test_a_folder_of_the_same_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    les_plugins.save(nn.Linear(3, 1), tmp_path / "toy-one", "toy", {"mine": True})
    assert les_plugins.load("toy-one")[1]["metadata"]["mine"]


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS, zoo.CARD, zoo.METRICS, zoo.PREDICTIONS])
def test_a_changed_byte_anywhere_is_refused(folder, file, tmp_path):
    path = folder / "toy-one" / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    for use in (lambda: les_plugins.load("toy-one"), zoo.entry("toy-one").verify):
        with pytest.raises(CheckpointError, match=rf"toy-one.*{file} has been changed"):
            use()
    with pytest.raises(CheckpointError, match="has been changed"):
        zoo.entry("toy-one").copy(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_fitting_manifest_of_the_checkpoint_does_not_help(folder):
    """Someone who changes weights and their manifest together is found out by the manifest of the zoo."""
    les_plugins.save(nn.Linear(3, 1), folder / "elsewhere", "toy")
    for name in (CONFIG, WEIGHTS, "manifest.json"):
        (folder / "toy-one" / name).write_bytes((folder / "elsewhere" / name).read_bytes())
    with pytest.raises(CheckpointError, match="the manifest of the zoo says"):
        les_plugins.load("toy-one")


def test_a_missing_file_is_named(folder):
    (folder / "toy-one" / zoo.CARD).unlink()
    with pytest.raises(CheckpointError, match=r"card\.md is missing"):
        les_plugins.load("toy-one")


def test_unknown_names_say_which_there_are():
    with pytest.raises(CheckpointError, match="no model 'water-foo'; it has: toy-one"):
        zoo.entry("water-foo")
    with pytest.raises(CheckpointError, match=r"water-foo does not exist.*one of the zoo: toy-one"):
        les_plugins.load("water-foo")
    with pytest.raises(CheckpointError, match="no structure 'ice'; it has: none"):
        zoo.structure("ice")


def test_a_copy_is_a_checkpoint_of_its_own(tmp_path):
    copied = zoo.entry("toy-one").copy(tmp_path / "deep" / "copy")
    assert les_plugins.load(copied)[1]["host"] == "toy"
    assert sorted(path.name for path in copied.iterdir()) == sorted(zoo.entry("toy-one").sha256)
    with pytest.raises(CheckpointError, match="exists: choose another place"):
        zoo.entry("toy-one").copy(copied)


def test_a_copy_that_fails_leaves_nothing_and_blocks_no_other(tmp_path, monkeypatch):
    copied = []

    def until_the_disk_is_full(source, destination):
        copied.append(Path(destination).write_bytes(Path(source).read_bytes()))
        if len(copied) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(zoo.shutil, "copyfile", until_the_disk_is_full)
        with pytest.raises(DataError, match=r"copy: cannot be written: No space left on device"):
            zoo.entry("toy-one").copy(tmp_path / "deep" / "copy")
    assert not (tmp_path / "deep").exists()
    assert les_plugins.load(zoo.entry("toy-one").copy(tmp_path / "deep" / "copy"))[1]["host"] == "toy"


def test_structures_are_listed_and_copied(folder, tmp_path, capsys, monkeypatch):
    water = Atoms("OH2", [[0, 0, 0], [0.9, 0, 0], [0, 0.9, 0]], cell=[5.0, 6.0, 7.0], pbc=[True, True, False])
    ase.io.write(folder / "structures" / "drop.xyz", water)
    commands.structures(as_json=True)
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["formula"], row["atoms"]) == ("drop", "H2O", 3)
    assert (row["pbc"], row["cell_A"], row["velocities"]) == ([True, True, False], [5.0, 6.0, 7.0], False)
    assert Path(row["path"]) == zoo.structure("drop")
    commands.structures()
    assert "drop: H2O, 3 atoms, pbc T T F, 5.000 × 6.000 × 7.000 Å" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    commands.structures(name="drop")
    assert capsys.readouterr().out.strip() == "drop.xyz"
    assert Path("drop.xyz").read_bytes() == zoo.structure("drop").read_bytes()
    Path("mine.xyz").write_text("mine", encoding="utf-8")
    for output, said in (
        (Path("mine.xyz"), "exists"),
        (Path("no/x.xyz"), "cannot be written"),
        (Path("x.cif"), "allowed"),
    ):
        with pytest.raises(LesPluginsError, match=f"{output}.*{said}"):
            commands.structures(name="drop", output=output)
    assert Path("mine.xyz").read_text(encoding="utf-8") == "mine"
    assert sorted(path.name for path in tmp_path.glob("*.xyz")) == ["drop.xyz", "mine.xyz"]
    with pytest.raises(CheckpointError, match="no structure 'ice'; it has: drop"):
        commands.structures(name="ice")


def test_a_manifest_of_another_version_is_refused(folder):
    document = json.loads((folder / zoo.MANIFEST).read_text(encoding="utf-8"))
    (folder / zoo.MANIFEST).write_text(json.dumps({**document, "format_version": 99}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="not the manifest of a zoo that this les-plugins reads"):
        zoo.names()


def test_the_commands_say_what_the_zoo_holds(folder, tmp_path, monkeypatch, capsys):
    metrics = {
        "name": "toy-one",
        "terms": "q u",
        "data": {"licence": "CC0"},
        "summary": {"forces_rmse_meV_per_A": 12.34, "energy_rmse_meV_per_atom": 0.5},
    }
    (folder / "toy-one" / zoo.METRICS).write_text(json.dumps(metrics), encoding="utf-8")
    zoo.write_manifest(folder)
    monkeypatch.setenv("COLUMNS", "80")
    commands.list_models()
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if "toy-one" in line)
    assert [word.strip() for word in line.split("│")[1:-1]] == ["toy-one", "toy", "q u", "12.3", "0.50", "-", "-"]
    assert "licence of the data of toy-one: CC0" in printed
    assert max(map(len, printed.splitlines())) < 80
    commands.info("toy-one")
    assert capsys.readouterr().out.strip() == "# toy-one"
    commands.verify()
    assert "toy-one: 6 files as the manifest says" in capsys.readouterr().out
    commands.copy("toy-one", tmp_path / "mine")
    assert capsys.readouterr().out.strip() == str(tmp_path / "mine")


def _entry(folder: Path) -> dict[str, str]:
    return json.loads((folder / zoo.MANIFEST).read_text())["models"]["toy-one"]


@pytest.mark.parametrize(
    "models",
    [
        lambda entry: None,
        lambda entry: 3,
        lambda entry: ["toy-one"],
        lambda entry: {"toy-one": None},
        lambda entry: {"toy-one": list(entry)},
        lambda entry: {"toy-one": {}},
        lambda entry: {"toy-one": {**entry, "../../secret": "0" * 64}},
        lambda entry: {"toy-one": {**entry, "/etc/passwd": "0" * 64}},
        lambda entry: {"toy-one": {**entry, CONFIG: None}},
        lambda entry: {"toy-one": {**entry, CONFIG: "0" * 10**6}},
        lambda entry: {"../toy-one": entry},
        lambda entry: {"/tmp": entry},
        lambda entry: {"a/b": entry},
        lambda entry: {"..": entry},
        lambda entry: {"": entry},
    ],
)
def test_a_manifest_whose_models_are_no_folders_of_the_zoo_is_refused(folder, models):
    document = {"format": zoo.FORMAT, "format_version": zoo.FORMAT_VERSION, "models": models(_entry(folder))}
    (folder / zoo.MANIFEST).write_text(json.dumps(document))
    for use in (zoo.names, zoo.entries, lambda: zoo.entry("toy-one"), lambda: les_plugins.load("toy-one")):
        with pytest.raises(CheckpointError, match=r"manifest\.json: models must list") as caught:
            use()
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", ["[]", "3", "{", "null", "[" * 100_000, '{"format": 1, "format": 2}', "\x00"])
def test_a_manifest_that_is_no_mapping_is_refused(folder, text):
    (folder / zoo.MANIFEST).write_text(text)
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        zoo.names()


@pytest.mark.parametrize("name", ["../zoo/toy-one", "toy-one/..", "/", "a\0b", "x" * 10**6, ""])
def test_a_name_that_is_a_path_is_no_model_and_no_structure(name):
    for use in (zoo.entry, zoo.structure):
        with pytest.raises(CheckpointError) as caught:
            use(name)
        assert len(str(caught.value)) < 1000
