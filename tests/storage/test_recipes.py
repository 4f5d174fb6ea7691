"""The zoo's recipes: the commands that cards print, and the pretraining data that one of them prepares."""

import importlib.util
import itertools
import json
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
import typer
import yaml
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.singlepoint import SinglePointCalculator

from les_plugins import cli
from les_plugins.distillation.displacements import ions
from les_plugins.storage import zoo

RECIPES = Path(__file__).parents[2] / "model_zoo" / "recipes"


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPES))  # as Python does for a script
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", zoo.names())
def test_every_stage_of_a_card_is_in_the_repository_and_reads_what_the_stage_before_wrote(name):
    metrics = json.loads((zoo.root() / name / zoo.METRICS).read_text(encoding="utf-8"))
    stages = [part for part in metrics["training"]["command"].split(" && ") if "--config" in part]
    recipes = [Path(stage.split("--config ")[1].split()[0]) for stage in stages]
    assert recipes[-1].name == Path(metrics["training"]["recipe"]).name
    for recipe in recipes:
        assert (RECIPES / recipe.name).is_file(), recipe
    for before, recipe in itertools.pairwise(recipes):
        text = (RECIPES / recipe.name).read_text(encoding="utf-8")
        folder = f"{before.stem}.les"
        written = (f"runs/{before.stem}/best.ckpt", f"runs/{before.stem}/{folder}", f"start_from: {folder}")
        assert any(name in text for name in written)


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_of_mace_is_called_as_the_checkpoint_that_it_writes(recipe):
    settings = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    assert settings.get("name", recipe.stem) == recipe.stem


def test_cards_name_pretraining_data_and_all_licences():
    add, facts = script("add"), json.loads((RECIPES / "data.json").read_text(encoding="utf-8"))["water"]
    stage = add.command("water-x-pretraining", "nequip", RECIPES / "water-nequip-pretraining.yaml", facts, [])
    assert facts["pretraining"]["train"] in stage
    assert facts["train"] not in stage
    card = (zoo.root() / "water-nequip" / zoo.CARD).read_text(encoding="utf-8")
    assert facts["pretraining"]["licence"] in card
    assert facts["pretraining"]["functional"] in card


def test_cards_name_version_hash_and_licence_of_teachers():
    cards = script("cards")
    teachers = [
        {"teacher": "a:b", "teacher_version": "a 1.2", "teacher_sha256": "7f", "teacher_licence": "MIT", "frames": 9},
        {"teacher": "own:model", "frames": 2},
    ]
    assert cards.teacher_lines(teachers) == [
        "- Teacher of 9 frames: `a:b`, a 1.2, SHA-256 7f, licence MIT.",
        "- Teacher of 2 frames: `own:model`, licence not stated.",
    ]
    systems = json.loads((RECIPES / "data.json").read_text(encoding="utf-8"))
    metrics = json.loads((zoo.root() / "water-free" / zoo.METRICS).read_text(encoding="utf-8"))
    (teacher,) = cards.teachers_of("water-free")
    assert f"SHA-256 {teacher['teacher_sha256']}, licence MIT." in cards.card(metrics, systems["water-free"])


@pytest.mark.parametrize("name", zoo.names())
def test_the_licence_of_a_model_names_those_of_its_teachers(name):
    metrics = json.loads((zoo.root() / name / zoo.METRICS).read_text(encoding="utf-8"))
    for teacher in script("cards").teachers_of(name):
        assert teacher.get("teacher_licence", "not stated") in metrics["data"]["licence"]


def test_cesium_becomes_nitrogen_and_the_mean_energy_that_of_mapbi3(tmp_path, monkeypatch):
    module, frames = script("cesium_as_nitrogen"), []
    for shift in (-0.5, 0.5):
        atoms = Atoms("CsPbI3", positions=np.arange(15.0).reshape(5, 3), cell=[9, 9, 9], pbc=True)
        atoms.calc = SinglePointCalculator(atoms, energy=5 * (-278858.0 + shift), forces=np.full((5, 3), shift))
        frames.append(atoms)
    ase.io.write(tmp_path / "in.extxyz", frames)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "in.extxyz"), str(tmp_path / "runs" / "out.extxyz")])
    module.main()
    out = ase.io.read(tmp_path / "runs" / "out.extxyz", ":")
    assert [str(atoms.symbols) for atoms in out] == ["NPbI3", "NPbI3"]
    energies = [atoms.get_potential_energy() / 5 for atoms in out]
    assert energies == pytest.approx([module.MEAN_ENERGY - 0.5, module.MEAN_ENERGY + 0.5], abs=1e-6)
    assert np.allclose(out[0].get_forces(), -0.5)


class Springs(Calculator):
    """A calculator whose energy and forces are known."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.5 * (atoms.positions**2).sum(), "forces": -atoms.positions}


@pytest.fixture
def taught(tmp_path, monkeypatch):
    """The script, the frame that it is given, and what it writes: rattled, doubled, as it was."""
    module = script("frames_of_teacher")
    # Across a boundary: the first lattice vector is 7 Å long.
    molecule = [[6.0, 4.0, 4.0], [0.5, 4.0, 4.0], [5.6, 5.0, 4.0], [0.9, 3.0, 4.0]]
    source = Atoms("CNHHPbI", positions=[*molecule, [0, 0, 0], [0, 0, 3.1]], cell=[7, 8, 9], pbc=True)
    source.calc = SinglePointCalculator(source, energy=1.25, forces=np.full((6, 3), 0.5))
    ase.io.write(tmp_path / "in.extxyz", source)
    monkeypatch.setattr(module.les_plugins, "load", lambda name: {"a-teacher": Springs()}[name])
    monkeypatch.setattr(
        sys, "argv", ["", "a-teacher", str(tmp_path / "in.extxyz"), str(tmp_path / "runs" / "out.extxyz")]
    )
    module.main()
    return module, source, ase.io.read(tmp_path / "runs" / "out.extxyz", ":")


def test_a_teacher_labels_new_frames_and_the_old_ones_come_last_as_they_are(taught):
    _, source, (rattled, doubled, same) = taught
    for atoms in (rattled, doubled):
        assert atoms.get_potential_energy() == pytest.approx(0.5 * (atoms.positions**2).sum(), abs=1e-4)
        assert np.allclose(atoms.get_forces(), -atoms.positions, atol=1e-6)
    assert np.allclose(same.positions, source.positions)
    assert same.get_potential_energy() == 1.25
    assert np.allclose(same.get_forces(), 0.5)


def test_new_frames_keep_the_bonds_of_molecules(taught):
    module, _, (rattled, doubled, _) = taught
    for atoms in (rattled, doubled):
        for start in range(0, len(atoms), 6):
            carbon, nitrogen, *hydrogen = atoms.positions[start : start + 4]
            pairs = ((carbon, nitrogen), (carbon, hydrogen[0]), (nitrogen, hydrogen[1]))
            # Five widths of two atoms, each rattled at most twice.
            widest = 5 * 2 * module.RATTLE["H"]
            assert np.allclose([np.linalg.norm(a - b) for a, b in pairs], [1.5, 1.077, 1.077], atol=widest)


def test_a_doubled_cell_has_waves_that_turn_over_between_its_halves(taught):
    module, source, (rattled, doubled, _) = taught
    assert len(doubled) == 2 * len(source)
    # A strain of 0.01 a component changes the volume by a few per cent.
    assert doubled.get_volume() / rattled.get_volume() == pytest.approx(2, abs=0.2)
    shift = (doubled.cell.lengths() / source.cell.lengths()).round()
    lattice_vector = doubled.cell.array[shift.argmax()] / 2
    apart = doubled.positions[6:] - doubled.positions[:6] - lattice_vector
    # What is left is twice the wave, beside which rattling is small: whole molecules move together.
    still = 5 * 2 * module.RATTLE["H"]
    assert np.abs(apart[:4] - apart[:4].mean(axis=0)).max() < still
    assert np.abs(apart).max() > still


def test_frames_of_other_elements_raise_an_error(tmp_path, monkeypatch, capsys):
    ase.io.write(tmp_path / "in.extxyz", Atoms("OPb", positions=[[0, 0, 0], [0, 0, 2]], cell=[5, 5, 5], pbc=True))
    monkeypatch.setattr(sys, "argv", ["", "a-teacher", str(tmp_path / "in.extxyz"), str(tmp_path / "out.extxyz")])
    with pytest.raises(SystemExit):
        script("frames_of_teacher").main()
    assert "has O; how far to displace is known of H, C, N, I, Pb alone" in capsys.readouterr().err


def test_ions_are_molecules_or_single_atoms(taught):
    module, source, _ = taught
    group = ions(source, module.ORGANIC)
    assert len(set(group[:4])) == 1
    assert len(set(group)) == 3


def test_the_first_stage_with_a_teacher_makes_its_frames_and_the_next_reads_them():
    add, facts = script("add"), json.loads((RECIPES / "data.json").read_text(encoding="utf-8"))["mapbi3"]
    facts["teacher"]["recipes"] = ["x-first", "x-second"]
    first = add.command("x-first", "nequip", Path("x-first.yaml"), facts, [])
    made = "runs/mapbi3-teacher.extxyz"
    script_of_teacher = "${MACE_PYTHON:-python} model_zoo/recipes/frames_of_teacher.py"
    assert first.startswith(f"{script_of_teacher} {facts['teacher']['model']} $DATA/mapbi3/train.extxyz {made} && ")
    second = add.command("x-second", "nequip", Path("x-second.yaml"), facts, [])
    assert "frames_of_teacher" not in second
    for stage in (first, second):
        assert f"data.train_file_path={made} data.val_file_path=$DATA/mapbi3/valid.extxyz" in stage
    assert made not in add.command("x-third", "nequip", Path("x-third.yaml"), facts, [])


def test_the_teacher_of_the_card_is_a_stage_that_the_card_of_mapbi3_mace_trains():
    commands = {name: zoo.entry(name).metrics["training"]["command"] for name in ("mapbi3-mace", "mapbi3-nequip")}
    teacher = commands["mapbi3-nequip"].split("frames_of_teacher.py ")[1].split()[0]
    assert Path(teacher).suffix == ".les"
    assert f"--config model_zoo/recipes/{Path(teacher).stem}.yaml" in commands["mapbi3-mace"]
    assert zoo.entry("mapbi3-nequip").config["metadata"]["command"] == commands["mapbi3-nequip"]


def test_every_card_says_where_the_model_stops():
    facts = json.loads((RECIPES / "data.json").read_text(encoding="utf-8"))
    for entry in zoo.entries():
        metrics = entry.metrics
        system = next(each for each in facts.values() if each["system"] == metrics["data"]["system"])
        section = entry.card.split("## Where it stops\n\n")[1].split("\n\n## ")[0]
        assert section.splitlines() == script("limits").lines(metrics["limits"], system)
        assert ("no stress was trained" in section) == ("stress" not in system.get("labels", ""))
        assert "Zero-point motion" in section


def test_a_student_of_a_teacher_is_made_from_its_start_on():
    add, facts = script("add"), json.loads((RECIPES / "data.json").read_text(encoding="utf-8"))["water-free"]
    start, distil, train = add.command("x", "mace", RECIPES / "water-free-one.yaml", facts, []).split(" && ")
    assert (RECIPES.parents[1] / start.split()[1]).is_file()
    assert distil.startswith(f"les-plugins distill sevennet:7net-0 --structures {start.split()[2]} -o runs/")
    assert train.endswith(f"--train_file runs/water-free-data-train.xyz --valid_file {facts['valid']}")
    last = add.command("x", "mace", RECIPES / "water-free-two.yaml", facts, []).split(" && ")
    assert last[-2].endswith("> runs/water-free-train.xyz")
    assert f"--train_file runs/water-free-train.xyz --valid_file {facts['valid']}" in last[-1]
    assert add.place(Path("data"), facts["train"]) == Path(facts["train"])
    assert add.place(Path("data"), facts["born"]) == Path("data") / facts["born"]


def commands_that_distil():
    systems = json.loads((RECIPES / "data.json").read_text(encoding="utf-8")).values()
    stages = [stage for facts in systems for stage in facts.get("stages", {}).values()]
    return [line for stage in stages for line in stage.get("prepare", []) if line.startswith("les-plugins distill")]


@pytest.mark.parametrize("line", commands_that_distil())
def test_commands_that_distil_are_read_as_they_stand(line):
    root = typer.main.get_command(cli.app) if cli.app.registered_commands else registered()
    context = root.commands["distill"].make_context("distill", line.split()[2:])
    assert context.params["teacher"] == "sevennet:7net-0"


def registered():
    cli._register()
    return typer.main.get_command(cli.app)


def test_crystals_to_start_from_have_whole_molecules_and_the_stoichiometry(tmp_path, monkeypatch):
    module = script("start_of_mapbi3")
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "runs" / "start.xyz")])
    module.main()
    for atoms in ase.io.read(tmp_path / "runs" / "start.xyz", ":"):
        assert atoms.symbols.formula.reduce()[0].count() == {"Pb": 1, "I": 3, "C": 1, "N": 1, "H": 6}
        sizes = np.bincount(np.bincount(ions(atoms)))
        assert (sizes[1], sizes[8]) == (4 * len(atoms) // 12, len(atoms) // 12)  # lead and iodine; methylammonium


def test_water_to_start_from_is_driven_by_its_forces_and_shortened(monkeypatch):
    module = script("start_of_water")
    atoms = module.packed(1.0, np.random.default_rng(0))
    assert atoms.get_masses().sum() / atoms.get_volume() / 0.602214 == pytest.approx(1.0, rel=1e-3)
    atoms.calc = module.FlexibleWater()
    for atom, axis in ((0, 0), (1, 2), (50, 1)):
        energies = []
        for step in (1e-4, -1e-4):
            moved = atoms.copy()
            moved.positions[atom, axis] += step
            moved.calc = module.FlexibleWater()
            energies.append(moved.get_potential_energy())
        # central differences: their error grows as the square of the step, some 1e-7 eV/Å here
        assert atoms.get_forces()[atom, axis] == pytest.approx((energies[1] - energies[0]) / 2e-4, abs=1e-5)
    short = module.shortened(atoms)
    assert short.get_distance(0, 1) == pytest.approx(module.FACTOR * atoms.get_distance(0, 1))
    assert np.array_equal(short.positions[::3], atoms.positions[::3])


def test_frames_of_rare_volumes_are_repeated_and_none_is_lost():
    volumes = np.array([1940.0] + [1969.0] * 12 + [2001.0] * 24 + [2040.0] * 3)
    times = script("by_volume").repeats(volumes, width=15.0, most=5)
    assert times[volumes == 2001].tolist() == [1] * 24
    assert times[volumes == 1969].tolist() == [2] * 12
    assert times[volumes == 2040].tolist() == [5] * 3  # eight times as rare, and at most five
    assert times[volumes == 1940].tolist() == [5]


class Ions(Calculator):
    """A dipole and an energy of molecules that are known, Z* that depend on the cell as it is told."""

    implemented_properties = ("energy", "forces", "latent_charges", "dipole", "born_effective_charges")

    def __init__(self, doubled: float) -> None:
        super().__init__()
        self.doubled = doubled

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        factor = self.doubled if len(atoms) > 192 else 1.0
        born = np.tile(factor * np.eye(3), (len(atoms), 1, 1))
        reach = np.linalg.norm(atoms.positions[1] - atoms.positions[0])
        self.results = {"energy": 2.0 * (reach > 2.9), "forces": np.zeros((len(atoms), 3))}
        self.results |= {"latent_charges": np.full(len(atoms), -0.5 / 192), "dipole": np.array([0.0, 0.0, 0.2081943])}
        self.results |= {"born_effective_charges": born}


def test_limits_are_the_numbers_of_the_model():
    found = script("limits").limits(Ions(0.9), "liquid water", "water-64", long_range=True)
    assert found["water_dipole_D"] == pytest.approx(1.0, rel=1e-6)  # 0.2081943 e·Å are one debye
    assert found["water_bond_eV"] == 2.0
    assert found["net_charge_e"] == pytest.approx(-0.5)  # what `charges`, made to add up to zero, do not show
    assert found["doubled_cell_slope"] == pytest.approx(0.9)
    assert found["doubled_cell_largest_e"] == pytest.approx(0.1)
    assert "sum to -0.50 e" in script("limits").lines(found, {"labels": "stress", "zero_point": ""})[0]
    short = script("limits").limits(Ions(1.0), "liquid water", "water-64", long_range=False)
    assert set(short) == {"water_bond_eV"}
