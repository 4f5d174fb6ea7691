"""Compiled and packaged NequIP and Allegro models: the same numbers, and a refusal of what they do not cover."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nequip", reason="nequip is not installed: nox -s tests-nequip")

import ase.io
import torch
import yaml
from nequip.integrations.ase import NequIPCalculator
from nequip.model.modify_utils import modify
from nequip.nn.compile import ListInputOutputWrapper
from nequip.scripts._compile_utils import COMPILE_TARGET_DICT
from nequip.utils.compile import prepare_model_for_compile
from nequip.utils.fx import nequip_make_fx
from nequip_models import HOST_SECTIONS, amplify, batch_of, part, tiny_host, tiny_long_range, waters
from test_nequip_training import nequip, write_config, write_frames

import les_plugins
from les_plugins.adapters.nequip import LongRangeModel
from les_plugins.adapters.nequip.calculator import LesNequIPCalculator
from les_plugins.adapters.nequip.compiled import LesCompiledCalculator
from les_plugins.adapters.nequip.train import load_checkpoint
from les_plugins.errors import ConfigError, DataError, GeometryError, HostError
from les_plugins.hosting.registry import host
from les_plugins.model.outputs import read_carriers

ARCHITECTURES = ("nequip", "allegro")
#: Everything that takes another path in traced code, in little of everything.
SECTION = {
    "multipoles": ["charge", "dipole"],
    "response": {"charge": True, "dipole": "isotropic"},
    "dl": 2.0,
    "static_cell": [9.0, 9.0, 9.0],
}


def traced(model, target: str):
    """What nequip-compile traces for a target, before any compiler sees it, and a function of a structure's data."""
    settings = COMPILE_TARGET_DICT[target]
    data = settings["data_settings"](batch_of([waters()]))
    wrapped = ListInputOutputWrapper(model, settings["input"], settings["output"])
    graph = nequip_make_fx(
        prepare_model_for_compile(wrapped, "cpu"), {key: data[key] for key in settings["input"]}, settings["input"]
    )

    def run(data):
        return dict(zip(settings["output"], graph(*[data[key] for key in settings["input"]]), strict=True))

    return run


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_nequip_compile_traces_gives_the_models_numbers_and_no_number_for_a_cell_not_covered(architecture):
    model = tiny_long_range(architecture, SECTION)
    run = traced(model, "ase")
    for atoms in (waters(2, seed=3), waters(4, seed=4)):
        data = batch_of([atoms])
        eager, found = model(dict(data)), run(data)
        for key, value in found.items():  # sums in another order
            torch.testing.assert_close(value, eager[key].detach().to(value.dtype), rtol=1e-9, atol=1e-9)
    large = batch_of([waters(2).repeat((1, 1, 2))])
    assert all(bool(value.isnan().all()) for value in run(large).values())


@pytest.mark.training  # most of a minute: nine derivatives are written down
def test_the_target_of_our_calculator_traces_latent_outputs_and_born_charges():
    section = {"multipoles": ["charge"], "response": {"dipole": "isotropic"}, "dl": 2.0, "static_cell": [9.0] * 3}
    model = tiny_long_range("nequip", section)
    run = traced(model, "les_ase")
    atoms = waters(3, seed=5)
    asked = {**batch_of([atoms]), "les_all_latent": torch.ones(1, 1)}
    found = run(asked)
    eager = model({key: value for key, value in asked.items() if key not in ("batch", "num_atoms")})
    torch.testing.assert_close(found["latent_born_charges"], eager["latent_born_charges"], rtol=0, atol=1e-9)
    calculator = LesNequIPCalculator(model, epsilon_infinity=1.0)
    assert bool((found["latent_quadrupoles"] == 0.0).all())
    # charges are screened less their mean: differences of two atoms know the factor alone
    charges, latent_charges = (calculator.get_property(name, atoms) for name in ("charges", "latent_charges"))
    latent = found["latent_born_charges"].numpy() * (np.ptp(charges) / np.ptp(latent_charges))
    np.testing.assert_allclose(latent, calculator.get_property("born_effective_charges", atoms), rtol=0, atol=1e-9)
    np.testing.assert_allclose(
        found["latent_charges"][:, 0].detach(), calculator.get_property("latent_charges", atoms), rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(found["latent_polarization_charges"][:, 0].sum().detach(), 0.0, rtol=0, atol=1e-12)
    opened = {**asked, "pbc": torch.zeros(1, 3, dtype=torch.bool)}
    assert bool(run(opened)["total_energy"].isnan().all())


@pytest.mark.training  # most of a minute
def test_the_target_of_our_calculator_makes_the_polarization_of_conserved_charges_with_transfers():
    section = {"multipoles": ["charge", "dipole"], "total_charge": "conserved", "dl": 2.0, "static_cell": [9.0] * 3}
    model, atoms = tiny_long_range("nequip", section), waters(3, seed=5)
    found = traced(model, "les_ase")({**batch_of([atoms]), "les_all_latent": torch.ones(1, 1)})
    calculator = LesNequIPCalculator(model, epsilon_infinity=1.0)
    born = calculator.get_property("born_effective_charges", atoms)
    assert calculator.results["polarization_source"] == "transfers"
    np.testing.assert_allclose(found["latent_born_charges"].detach(), born, rtol=0, atol=1e-9)
    assert float(found["latent_born_charges"].sum(0).abs().max()) < 1e-9
    carriers = read_carriers(found)
    assert carriers is not None
    assert carriers.is_fixed
    moment = carriers.total(torch.tensor(atoms.positions), torch.zeros(len(atoms), dtype=torch.long), 1)[0]
    np.testing.assert_allclose(moment, calculator.get_property("dipole", atoms), rtol=0, atol=1e-9)


def test_a_model_that_reads_total_charges_cannot_be_compiled_and_says_so():
    model = tiny_long_range("nequip", {**SECTION, "total_charge": "given"})
    with pytest.raises(ConfigError, match="total_charge: given needs the total charge of every structure"):
        traced(model, "ase")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_frame_in_a_batch_of_a_model_to_be_compiled_gives_the_right_answer(architecture):
    section = {**HOST_SECTIONS[architecture], "compile_mode": "compile"}
    model = amplify(LongRangeModel(section, SECTION).eval())
    assert model.is_compile_graph_model
    eager = tiny_long_range(architecture, SECTION)
    data = batch_of([waters(2)])  # NequIP itself evaluates a single frame without compiling
    for key in ("total_energy", "forces", "stress"):
        torch.testing.assert_close(model(dict(data))[key], eager(dict(data))[key], rtol=0, atol=1e-12)
    assert not model._compiled_cache[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiling_without_a_static_cell_raises_an_error(architecture):
    section = {key: value for key, value in SECTION.items() if key != "static_cell"}
    with pytest.raises(ConfigError, match=r"compile_mode: compile needs long_range\.static_cell"):
        LongRangeModel({**HOST_SECTIONS[architecture], "compile_mode": "compile"}, section)
    with pytest.raises(ConfigError, match="set static_cell"):
        traced(tiny_long_range(architecture, section), "ase")


def test_a_cell_that_the_grid_does_not_cover_is_refused_eagerly_and_by_the_calculator():
    model = tiny_long_range("nequip", SECTION)
    with pytest.raises(GeometryError, match="no longer than static_cell"):
        model(batch_of([waters(2).repeat((2, 1, 1))]))
    with pytest.raises(GeometryError, match="periodic structures"):
        LesNequIPCalculator(model).get_potential_energy(waters(2, pbc=False))


def test_the_grid_can_be_sized_by_nequips_modifiers_and_by_the_section_around_a_trained_model():
    model = tiny_long_range("nequip", {key: value for key, value in SECTION.items() if key != "static_cell"})
    modify(model, [{"modifier": "static_cell", "cell": [8.0, 8.0, 8.5]}])
    assert part(model).config.run.static_cell == (8.0, 8.0, 8.5)
    with pytest.raises(ConfigError, match="three lengths"):
        modify(model, [{"modifier": "static_cell"}])
    with pytest.raises(ConfigError, match="three positive lengths"):
        modify(model, [{"modifier": "static_cell", "cell": [8.0, 8.0, -8.5]}])


def test_what_models_can_be_compiled_to_is_said():
    assert host("nequip").compile_targets == ("train", "ase", "les_ase", "pair_nequip", "batch")


def test_a_compiled_model_of_another_target_raises_an_error(monkeypatch):
    def refuse(*arguments):
        raise ValueError("Provided output keys do not match metadata")

    monkeypatch.setattr("les_plugins.adapters.nequip.compiled.load_compiled_model", refuse)
    with pytest.raises(HostError, match="--target les_ase"):
        LesCompiledCalculator.from_compiled_model("model.nequip.pt2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of nequip-train, of a model with a static_cell."""
    folder = tmp_path_factory.mktemp("trained")
    before = Path.cwd()
    os.chdir(folder)
    try:
        write_frames(folder / "train.extxyz", 6, seed=1, every_open=0)
        write_frames(folder / "valid.extxyz", 2, seed=2, every_open=0)
        config = write_config("nequip", SECTION)
        done = nequip("train", "-cp", str(config.parent), "-cn", config.stem, f"hydra.run.dir={folder}/run")
        assert done.returncode == 0, done.stderr[-3000:]
    finally:
        os.chdir(before)
    return folder


def compiled(trained: Path, target: str) -> Path:
    output = trained / f"{target}.nequip.pt2"
    arguments = ("--mode", "aotinductor", "--device", "cpu", "--target", target)
    done = nequip("compile", str(trained / "run" / "best.ckpt"), str(output), *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return output


@pytest.mark.training
def test_nequip_compile_for_nequips_own_calculator(trained):
    theirs = NequIPCalculator.from_compiled_model(str(compiled(trained, "ase")), chemical_species_to_atom_type_map=True)
    ours = LesNequIPCalculator(load_checkpoint(trained / "run" / "best.ckpt"))
    for atoms in (waters(2, seed=7), waters(3, seed=8)):
        assert theirs.get_potential_energy(atoms) == pytest.approx(ours.get_potential_energy(atoms), abs=1e-5)
        np.testing.assert_allclose(theirs.get_forces(atoms), ours.get_forces(atoms), atol=1e-5)  # float32 model
        np.testing.assert_allclose(theirs.get_stress(atoms), ours.get_stress(atoms), atol=1e-6)
    assert np.isnan(theirs.get_potential_energy(waters(2).repeat((1, 1, 2))))
    with pytest.raises(HostError, match="--target les_ase"):
        LesCompiledCalculator.from_compiled_model(trained / "ase.nequip.pt2")


@pytest.mark.training
def test_nequip_compile_for_lammps(trained):
    assert compiled(trained, "pair_nequip").stat().st_size > 0  # NequIP compares it with the model itself


@pytest.mark.training
def test_nequip_compile_for_our_calculator_with_charges_dipole_born_charges_and_polarizability(trained):
    compiled_calculator = LesCompiledCalculator.from_compiled_model(compiled(trained, "les_ase"))
    eager = LesNequIPCalculator(load_checkpoint(trained / "run" / "best.ckpt"))
    atoms = waters(3, seed=8)
    for name in (
        "energy", "forces", "stress", "charges", "dipole", "polarizability", "born_effective_charges",
        "long_range_energy", "short_range_energy", "latent_charges", "latent_dipoles",
    ):  # fmt: skip
        found, expected = (calc.get_property(name, atoms) for calc in (compiled_calculator, eager))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5, err_msg=name)  # float32 model
    with pytest.raises(DataError, match="cannot evaluate it: static_cell"):
        compiled_calculator.get_potential_energy(waters(2).repeat((1, 1, 2)))
    with pytest.raises(DataError, match="cannot evaluate it: static_cell"):
        compiled_calculator.get_potential_energy(waters(2, pbc=False))


@pytest.mark.training
def test_nequip_train_compiles_and_gets_where_the_eager_training_gets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_frames(tmp_path / "train.extxyz", 6, seed=1, every_open=0)
    write_frames(tmp_path / "valid.extxyz", 2, seed=2, every_open=0)
    section = {**SECTION, "zero_init": True}  # the coupling's slope at zero must survive the compiler
    models = []
    for mode in ("eager", "compile"):
        config = write_config("nequip", section, compile_mode=mode, model_dtype="float64")
        settings = yaml.safe_load(config.read_text())
        # Adam makes a full step of what is rounding in one and zero in the other, such as the heads' first gradient
        settings["training_module"]["optimizer"] = {"_target_": "torch.optim.SGD", "lr": 0.01}
        config.write_text(yaml.safe_dump(settings))
        done = nequip("train", "-cp", str(config.parent), "-cn", config.stem, f"hydra.run.dir={tmp_path}/{mode}")
        assert done.returncode == 0, done.stderr[-3000:]
        models.append(load_checkpoint(tmp_path / mode / "last.ckpt"))
    assert float(part(models[0]).coupling.detach().abs()) > 0.0
    for name, value in models[0].state_dict().items():  # rounding, through four steps
        torch.testing.assert_close(models[1].state_dict()[name], value, rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.training
def test_a_packaged_model_runs_where_les_plugins_is_not_installed_and_is_compiled_from_its_package(trained):
    package = trained / "model.nequip.zip"
    done = nequip("package", "build", str(trained / "run" / "best.ckpt"), str(package))
    assert done.returncode == 0, done.stderr[-3000:]
    atoms = waters(2, seed=7)
    ase.io.write(trained / "start.extxyz", atoms)
    script = Path(__file__).parent / "without_les_plugins.py"
    call = [sys.executable, str(script), str(package), str(trained / "start.extxyz")]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    energy, *forces = (float(word) for word in done.stdout.split()[-1 - 3 * len(atoms) :])
    ours = LesNequIPCalculator(load_checkpoint(trained / "run" / "best.ckpt"))
    assert energy == pytest.approx(ours.get_potential_energy(atoms), abs=1e-6)
    np.testing.assert_allclose(np.reshape(forces, (-1, 3)), ours.get_forces(atoms), atol=1e-6)

    smaller = trained / "smaller.nequip.zip"
    arguments = ("--modifier", "static_cell", "cell=[7.5,7.5,7.5]")
    done = nequip("package", "modify", str(package), str(smaller), *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    built = LongRangeModel({"_target_": "nequip.model.ModelFromPackage", "package_path": str(smaller)})
    assert part(built).electrostatics.settings.static_cell == (7.5, 7.5, 7.5)
    with pytest.raises(HostError, match="already"):
        les_plugins.attach(built, SECTION)


def test_the_bare_host_model_has_no_static_cell_to_set():
    with pytest.raises(RuntimeError, match="not a registered model modifier"):
        modify(tiny_host(), [{"modifier": "static_cell", "cell": [8.0, 8.0, 8.0]}])
