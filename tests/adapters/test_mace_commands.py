"""`les-plugins predict` and `evaluate` with a MACE checkpoint: numbers, files, and every refusal in words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mace", reason="mace-torch is not installed: nox -s tests-mace")

import ase.io
import numpy as np
import torch
from ase import Atoms
from mace_models import amplify, tiny_mace, waters

import les_plugins
from les_plugins import api, cli
from les_plugins.storage import checkpoint

LONG_RANGE = {"response": {"charge": True, "dipole": "isotropic"}, "epsilon_infinity": 1.5}


@dataclass
class Done:
    """How a command ended."""

    code: int
    output: str
    errors: str


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run `les-plugins ARGUMENTS` in this process."""

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["les-plugins", *map(str, arguments)])
        monkeypatch.setattr(cli.app, "registered_commands", [])
        monkeypatch.setattr(cli.app, "registered_groups", [])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return Done(int(end.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny model with a long-range part, float64."""
    # random heads: a net charge is no news
    long_range = amplify(les_plugins.attach(tiny_mace(), LONG_RANGE | {"net_charge_warning": None}))
    return api.save(long_range, tmp_path_factory.mktemp("models") / "tiny.les", "mace")


@pytest.fixture(scope="module")
def short_range(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a bare MACE."""
    return api.save(tiny_mace(), tmp_path_factory.mktemp("models") / "short.les", "mace")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two periodic frames and an open one, with every label, which are not the model's."""
    return write(
        tmp_path / "in.xyz", [labelled(waters(2, seed)) for seed in (0, 1)] + [labelled(waters(2, 2, pbc=False))]
    )


def labelled(atoms: Atoms) -> Atoms:
    random = np.random.default_rng(len(atoms))
    atoms.info |= {"REF_energy": -10.0, "REF_dipole": random.normal(size=3)}
    if atoms.pbc.all():
        atoms.info["REF_stress"] = random.normal(size=6)
    atoms.arrays["REF_forces"] = random.normal(size=(len(atoms), 3))
    atoms.arrays["REF_born_effective_charges"] = random.normal(size=(len(atoms), 9))
    return atoms


BOUNDARIES = "{}: 3 frames: 2 periodic, 1 open (no lattice in the file)\n"


def write(path: Path, frames: list[Atoms]) -> Path:
    ase.io.write(path, frames, format="extxyz")
    return path


def test_predict_writes_what_the_calculator_gives(command: Callable[..., Done], model: Path, file: Path) -> None:
    output = file.with_name("out.xyz")
    assert command("predict", model, file, "-o", output, "--born") == Done(
        0, "", BOUNDARIES.format(file) + done_line(output)
    )
    calculator = les_plugins.load(model)
    frames = ase.io.read(output, ":")
    assert len(frames) == 3
    for atoms, found in zip(ase.io.read(file, ":"), frames, strict=True):
        calculator.calculate(atoms, ["energy", "born_effective_charges"])
        wanted = calculator.results
        assert found.get_potential_energy() == pytest.approx(wanted["energy"], rel=1e-14)
        assert found.info["long_range_energy"] + found.info["short_range_energy"] == pytest.approx(wanted["energy"])
        assert found.info["long_range_energy"] == pytest.approx(wanted["long_range_energy"], rel=1e-14)
        # columns of atoms have eight decimals
        np.testing.assert_allclose(found.get_forces(), wanted["forces"], atol=1e-8)
        np.testing.assert_allclose(found.get_charges(), wanted["charges"], atol=1e-8)
        np.testing.assert_allclose(found.get_dipole_moment(), wanted["dipole"], atol=1e-12)
        born = found.calc.results.get("born_effective_charges", found.arrays.get("born_effective_charges"))
        np.testing.assert_allclose(born.reshape(-1, 3, 3), wanted["born_effective_charges"], atol=1e-8)
        assert np.abs(born).max() > 0.01
        if atoms.pbc.all():
            np.testing.assert_allclose(found.get_stress(), wanted["stress"], atol=1e-12)
        else:
            assert "stress" not in found.calc.results


def done_line(output: Path) -> str:
    names = (
        "born_effective_charges, charges, dipole, energy, forces, long_range_energy, polarizability, "
        "short_range_energy, stress (2)"
    )
    return f"{output}: 3 frames with {names}\n"


def test_a_short_range_model_predicts_what_it_has(command: Callable[..., Done], short_range: Path, file: Path) -> None:
    output = file.with_name("out.xyz")
    assert command("predict", short_range, file, "-o", output).code == 0
    found = ase.io.read(output)
    assert found.info["long_range_energy"] == 0.0
    assert "dipole" not in found.calc.results
    done = command("predict", short_range, file, "-o", output, "--born")
    assert done.code == 1
    assert "no long-range part" in done.errors


def test_predict_sums_itself_up_as_json(command: Callable[..., Done], model: Path, file: Path) -> None:
    output = file.with_name("out.xyz")
    done = command("predict", model, file, "-o", output, "--json")
    assert (done.code, done.errors) == (0, BOUNDARIES.format(file))
    summary = json.loads(done.output)
    assert summary["model"]["weights_sha256"] == checkpoint.sha256(model / checkpoint.WEIGHTS)
    assert summary["output"]["sha256"] == checkpoint.sha256(output)
    assert (summary["frames"], summary["atoms"]) == (3, 18)
    assert summary["frames_with"]["stress"] == 2


def test_predictions_evaluate_to_zero_error(command: Callable[..., Done], model: Path, tmp_path: Path) -> None:
    bare = write(tmp_path / "bare.xyz", [waters(2, 0), waters(3, 1), waters(2, 3, pbc=False), waters(1, 4, pbc=False)])
    labels = tmp_path / "labels.xyz"
    assert command("predict", model, bare, "-o", labels, "--born").code == 0
    done = command("evaluate", model, labels, "--json", "--plots", tmp_path / "plots")
    assert (done.code, done.errors) == (0, f"{labels}: 4 frames: 2 periodic, 2 open (no lattice in the file)\n")
    report = json.loads(done.output)
    metrics = report["metrics"]
    assert set(metrics) == {
        "energy",
        "energy_offset_removed",
        "forces",
        "stress",
        "dipole",
        "polarizability",
        "born_effective_charges",
    }
    for name, table in metrics.items():
        assert table["all"]["largest"] < 2e-8, name  # columns of atoms have eight decimals
    assert metrics["forces"]["all"]["r2"] > 0.999999
    assert report["file"]["sha256"] == checkpoint.sha256(labels)
    assert report["file"]["frames"] == 4
    assert "in 2 of 4 frames" in report["skipped"]["dipole"]
    assert sorted(path.stem for path in (tmp_path / "plots").glob("*.png")) == sorted(metrics)


def test_evaluate_prints_a_table(command: Callable[..., Done], model: Path, file: Path) -> None:
    done = command("evaluate", model, file)
    assert (done.code, done.errors) == (0, BOUNDARIES.format(file))
    for word in ("Energy, offset", "meV/Å", "O off-diagonal", "acoustic sum rule", "not in the file: Polarizability"):
        assert word in done.output


def test_born_charges_can_be_left_out(command: Callable[..., Done], model: Path, file: Path) -> None:
    report = json.loads(command("evaluate", model, file, "--json", "--no-born").output)
    assert "born_effective_charges" not in report["metrics"]
    assert report["skipped"]["born_effective_charges"] == "not asked for"


def test_epsilon_infinity_scales_born_charges_of_periodic_frames(
    command: Callable[..., Done], model: Path, tmp_path: Path
) -> None:
    atoms = labelled(waters(2))
    atoms.arrays["REF_born_effective_charges"] = np.zeros((len(atoms), 9))  # the error is then the prediction
    file = write(tmp_path / "in.xyz", [atoms])
    rmse = {}
    for epsilon in (1.5, 6.0):
        report = json.loads(command("evaluate", model, file, "--json", "--epsilon-infinity", epsilon).output)
        assert report["model"]["epsilon_infinity"] == epsilon
        rmse[epsilon] = report["metrics"]["born_effective_charges"]["all"]["rmse"]
    assert rmse[6.0] == pytest.approx(2.0 * rmse[1.5])


def test_json_is_all_that_reaches_standard_output(model: Path, file: Path) -> None:
    """In a fresh process, where the host prints and warns while it is imported."""
    command = [sys.executable, "-m", "les_plugins", "evaluate", str(model), str(file), "--json", "--no-born"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert json.loads(done.stdout)["file"]["frames"] == 3
    assert done.stderr == BOUNDARIES.format(file)


def unlabelled(atoms: Atoms) -> None:
    atoms.info.clear()
    for name in ("REF_forces", "REF_born_effective_charges"):
        del atoms.arrays[name]


def with_chlorine(atoms: Atoms) -> None:
    atoms.numbers[1] = 17


def with_nan_position(atoms: Atoms) -> None:
    atoms.positions[1, 1] = np.nan


def with_nan_label(atoms: Atoms) -> None:
    atoms.arrays["REF_forces"][1, 1] = np.nan


def in_a_flat_cell(atoms: Atoms) -> None:
    atoms.set_cell([[5.0, 0.0, 0.0], [0.0, 5.0, 0.0], [5.0, 5.0, 0.4]])


def in_a_singular_cell(atoms: Atoms) -> None:
    atoms.set_cell([[5.0, 0.0, 0.0], [0.0, 5.0, 0.0], [5.0, 5.0, 0.0]])


def in_a_wire(atoms: Atoms) -> None:
    atoms.pbc = (True, False, False)


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (with_chlorine, "frame 1: the model does not know Cl; it knows: H, O"),
        (with_nan_position, "frame 1: positions holds NaN or infinity"),
        (in_a_flat_cell, "frame 1: the cell is 0.399 Å high along lattice vector 0"),
        (in_a_singular_cell, "frame 1: pbc is T T T but the cell"),
        (in_a_wire, "frame 1: pbc is (True, False, False)"),
    ],
)
def test_frames_that_cannot_be_computed_are_refused_in_one_line(
    command: Callable[..., Done], model: Path, tmp_path: Path, verb: str, spoil: Callable[[Atoms], None], message: str
) -> None:
    frames = [labelled(waters(2, seed)) for seed in (0, 1)]
    spoil(frames[1])
    file = write(tmp_path / "in.xyz", frames)
    output = tmp_path / "out.xyz"
    done = command(verb, model, file, *(["-o", output] if verb == "predict" else []))
    assert (done.code, done.output) == (1, "")
    assert done.errors.startswith(f"error: {file}, {message}")
    assert done.errors.count("\n") == 1
    assert not output.exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (with_nan_label, "frame 0: REF_forces holds NaN or infinity"),
        (unlabelled, "unlabelled: no frame has an energy or forces"),
    ],
)
def test_labels_that_cannot_be_used_are_refused_in_one_line(
    command: Callable[..., Done], model: Path, tmp_path: Path, spoil: Callable[[Atoms], None], message: str
) -> None:
    atoms = labelled(waters(2))
    spoil(atoms)
    done = command("evaluate", model, write(tmp_path / "in.xyz", [atoms]))
    assert (done.code, done.output) == (1, "")
    assert message in done.errors
    assert done.errors.count("\n") == 1


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_what_is_missing_is_named(command: Callable[..., Done], model: Path, file: Path, verb: str) -> None:
    output = ["-o", file.with_name("out.xyz")] if verb == "predict" else []
    (file.parent / "folder").mkdir()
    pickled = file.with_name("whole.model")
    torch.save({"not": "ours"}, pickled)
    cases: list[tuple[list[Any], str]] = [
        ([file.with_name("none.les"), file], "none.les does not exist"),
        ([file.parent / "folder", file], "is not a checkpoint of les-plugins"),
        ([pickled, file], "is a pickle"),
        ([file, file], "expected a checkpoint folder"),
        ([model, file.with_name("none.xyz")], "none.xyz: no such file"),
        ([model, file.parent], "is not a file"),
        ([model, file, "--device", "gpu"], "device 'gpu' is not a device"),
        ([model, file, "--epsilon-infinity", "0.5"], "--epsilon-infinity is 0.5"),
    ]
    for arguments, message in cases:
        done = command(verb, *arguments, *output)
        assert (done.code, done.output) == (1, "")
        assert done.errors.startswith("error: ")
        assert message in done.errors
        assert done.errors.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU that the test says is absent")
@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_an_absent_gpu_is_refused(command: Callable[..., Done], model: Path, file: Path, verb: str) -> None:
    output = ["-o", file.with_name("out.xyz")] if verb == "predict" else []
    done = command(verb, model, file, *output, "--device", "cuda")
    assert done.code == 1
    assert done.errors.startswith("error: device 'cuda' was asked for, but this machine has only: cpu")


def test_what_a_model_or_file_does_not_have_cannot_be_asked_for(
    command: Callable[..., Done], model: Path, short_range: Path, file: Path, tmp_path: Path
) -> None:
    without = labelled(waters(2))
    del without.arrays["REF_born_effective_charges"]
    cases: list[tuple[list[Any], str]] = [
        ([model, write(tmp_path / "without.xyz", [without]), "--born"], "--born: no frame of"),
        ([short_range, file, "--born"], "does not predict Born charges"),
        ([short_range, file, "--epsilon-infinity", "2"], "has no long-range part"),
        ([model, file, "--energy-key", "Energie"], "no frame has 'Energie' for the energy"),
        ([model, file, "--plots", file / "plots"], "cannot be made"),
    ]
    for arguments, message in cases:
        done = command("evaluate", *arguments)
        assert (done.code, done.output) == (1, "")
        assert message in done.errors
        assert done.errors.count("\n") == 1


def test_outputs_that_would_do_harm_are_refused(command: Callable[..., Done], model: Path, file: Path) -> None:
    before = file.read_bytes()
    link = file.with_name("link.xyz")
    link.symlink_to(file)
    cases = [
        (file, "is the input"),
        (link, "is the input"),
        (model / "out.xyz", "lies inside the checkpoint"),
        (file.parent / "missing" / "out.xyz", "there is no folder"),
    ]
    for output, message in cases:
        done = command("predict", model, file, "-o", output)
        assert (done.code, done.output) == (1, "")
        assert message in done.errors
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "model", "in.xyz"],
        ["predict", "model", "in.xyz", "-o", "out.traj"],
        ["evaluate", "model"],
        ["evaluate", "model", "in.xyz", "--bogus"],
        ["evaluate", "model", "in.xyz", "--epsilon-infinity", "high"],
    ],
)
def test_wrong_usage_ends_with_two(command: Callable[..., Done], arguments: list[str]) -> None:
    done = command(*arguments)
    assert (done.code, done.output) == (2, "")
    assert f"{arguments[0]} [OPTIONS]" in done.errors
