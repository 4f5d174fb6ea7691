"""Laws of use: calculator, checkpoint, trainer, and words where something cannot be done."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from les_plugins import api
from les_plugins.api import load_model
from les_plugins.config import LongRangeConfig
from les_plugins.errors import HostError, LesPluginsError, LesPluginsWarning
from les_plugins.hosting.calculator import LONG_RANGE_PROPERTIES
from les_plugins.testing.host import ContractHost, long_range_part
from les_plugins.testing.structures import labelled_waters, waters

PROPERTIES = ("energy", "forces", "stress", "charges", "dipole", "long_range_energy", "born_effective_charges")
#: A process in which nothing is imported yet.
PREDICT = """
import sys, ase.io, numpy, les_plugins
folder, frame, output, *names = sys.argv[1:]
calculator, atoms = les_plugins.load(folder), ase.io.read(frame)
numpy.savez(output, **{name: calculator.get_property(name, atoms) for name in names})
"""
#: What is known about a host before anything of it is imported.
DESCRIBE = """
import json, sys
from les_plugins.hosting import registry as plugins
infos = {info.name: info.problem for info in plugins.hosts()}
print(json.dumps([infos, sys.argv[1] in sys.modules]))
"""


class Workflow(ContractHost):
    """The host goes on working as its users know it."""

    def test_calculator_agrees_with_the_model_and_has_every_property(self) -> None:
        atoms = waters()
        found = self.evaluate(self.model, [atoms])
        calculator = self.calculator(self.model)
        close(calculator.get_property("energy", atoms), found.energy[0])
        close(calculator.get_property("forces", atoms), found.forces)
        atoms.calc = calculator
        close(atoms.get_stress(voigt=False), found.stress[0])
        close(atoms.get_potential_energies(), found.atomic_energy)
        for name in self.properties():
            assert np.isfinite(calculator.get_property(name, atoms)).all(), name
        parts = calculator.results["short_range_energy"] + calculator.results["long_range_energy"]
        assert calculator.results["energy"] == pytest.approx(parts, rel=1e-12)  # one subtraction

    def test_reference_values_that_a_structure_carries_change_nothing(self) -> None:
        calculator, plain, labelled = self.calculator(self.model), waters(), waters()
        expected = calculator.get_property("forces", plain)
        values = {"energy": 1.0, "forces": np.ones((len(plain), 3)), "stress": np.ones(6), "dipole": np.ones(3)}
        labelled.calc = SinglePointCalculator(labelled, **values)
        labelled.info.update(dipole=np.ones(3), energy=1.0)
        labelled.arrays["forces"] = np.ones((len(plain), 3))
        calculator.reset()
        close(calculator.get_property("forces", labelled), torch.as_tensor(expected))

    def properties(self) -> list[str]:
        """Long-range properties that a calculator with this section has."""
        config = LongRangeConfig.parse(dict(self.section))
        missing = set()
        if config.order < 2:
            missing.add("latent_quadrupoles")
        if config.order < 1 and config.response.dipole == "none":
            missing.add("latent_dipoles")
        if not config.has_response:
            missing.add("polarizability")
        return [name for name in LONG_RANGE_PROPERTIES if name not in missing]

    def test_physical_moments_carry_the_root_of_the_screening_in_periodic_structures_only(self) -> None:
        screened = self.calculator(self.attached({**self.section, "epsilon_infinity": 4.0}))
        plain = self.calculator(self.attached({**self.section, "epsilon_infinity": 1.0}))
        for pbc in (True, False):
            factor = 2.0 if pbc else 1.0
            powers = {"charges": 1, "dipole": 1, "born_effective_charges": 1, "polarizability": 2}
            for name in powers.keys() & set(self.properties()):
                power = powers[name]
                ours, reference = (each.get_property(name, waters(pbc=pbc)) for each in (screened, plain))
                np.testing.assert_allclose(ours, factor**power * reference, rtol=1e-9, atol=1e-12)  # rounding

    def test_a_saved_model_gives_the_same_numbers_in_a_fresh_process(self, tmp_path: Path) -> None:
        atoms = waters(3)
        atoms.write(tmp_path / "frame.json")
        folder = api.save(self.attached(), tmp_path / "model.les", self.host)
        arguments = [str(folder), str(tmp_path / "frame.json"), str(tmp_path / "found.npz"), *PROPERTIES]
        run = subprocess.run([sys.executable, "-c", PREDICT, *arguments], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        found, here = np.load(tmp_path / "found.npz"), self.calculator(self.attached())
        for name in PROPERTIES:
            expected = here.get_property(name, atoms)
            # the number of threads may differ, and with it the order of sums
            np.testing.assert_allclose(found[name], expected, rtol=1e-11, atol=1e-11, err_msg=name)

    def test_a_bare_model_is_saved_and_loaded_too(self, tmp_path: Path) -> None:
        folder = api.save(self.make_model(), tmp_path / "bare.les", self.host)
        model, config = load_model(folder)
        assert config["long_range"] is None
        ours, hosts = self.evaluate(model, [waters()]), self.evaluate(self.make_model(), [waters()])
        torch.testing.assert_close(ours.forces, hosts.forces, rtol=1e-14, atol=1e-14)  # the same operations

    def test_a_saved_model_can_be_loaded_in_the_other_precision(self, tmp_path: Path) -> None:
        model, atoms = self.attached(dtype=torch.float32), waters(3)
        folder = api.save(model, tmp_path / "single.les", self.host)
        double, reference = api.load(folder, dtype="float64"), self.calculator(self.in_float64(model))
        assert next(load_model(folder, "float64")[0].parameters()).dtype == torch.float64
        for name in ("energy", "forces", "charges"):
            expected = reference.get_property(name, atoms)
            # constants that a host makes in float64, where the weights keep them as float32 has them
            np.testing.assert_allclose(double.get_property(name, atoms), expected, rtol=1e-5, atol=1e-6, err_msg=name)
        wide = api.save(load_model(folder, "float64")[0], tmp_path / "double.les", self.host)
        back = api.load(wide, dtype="float32")
        assert next(load_model(wide, "float32")[0].parameters()).dtype == torch.float32
        single = self.calculator(model).get_property("forces", atoms)
        np.testing.assert_allclose(back.get_property("forces", atoms), single, rtol=1e-3, atol=1e-4)  # of float32
        with pytest.raises(HostError, match="float16"):
            api.load(folder, dtype="float16")

    def test_the_hosts_own_trainer_trains_the_long_range_part(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        section = {**self.section, "zero_init": True, "epsilon_infinity": 1.5}
        with warnings.catch_warnings():
            # one epoch on made-up labels: net charge and sign are what they happen to be
            warnings.simplefilter("ignore", LesPluginsWarning)
            folder = self.train(tmp_path, labelled_waters(6), section)
        model, config = load_model(folder)
        assert config["host"] == self.host
        assert LongRangeConfig.parse(config["long_range"]) == LongRangeConfig.parse(section)
        coupling = long_range_part(model).coupling
        assert coupling is not None
        assert coupling.abs().item() > 0.0  # it starts at exactly zero: only an optimizer moves it
        calculator = api.load(folder)
        assert np.isfinite(calculator.get_property("forces", waters(2))).all()

    @pytest.mark.parametrize("name", ["long_rang", "longrange", "Long-Range", "les"])
    def test_a_misspelt_section_raises_an_error(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # where a host ignores keys that it does not know, a short-range model would be trained without a word
        monkeypatch.chdir(tmp_path)
        self.section_name = name
        with pytest.raises(LesPluginsError) as refusal:
            self.train(tmp_path, labelled_waters(6), self.section)
        in_words(refusal.value)
        assert name in str(refusal.value), f"does not name the key {name}: {refusal.value}"

    @pytest.mark.parametrize("label", ["energy", "forces"])
    def test_a_training_frame_without_a_label_is_said_in_words(
        self, label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # trainers take what is missing for zero, or stumble over it after hours; a host may leave it out of its loss
        monkeypatch.chdir(tmp_path)
        frames = labelled_waters(6)
        del frames[1].calc.results[label]
        with warnings.catch_warnings():
            warnings.simplefilter("error", LesPluginsWarning)
            with pytest.raises((LesPluginsError, LesPluginsWarning)) as refusal:
                self.train(tmp_path, frames, self.section)
        in_words(refusal.value)
        assert label in str(refusal.value), f"does not name {label}: {refusal.value}"

    def test_the_adapter_is_described_without_importing_the_host(self) -> None:
        package = type(self.make_model()).__module__.split(".")[0]
        run = subprocess.run([sys.executable, "-c", DESCRIBE, package], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        infos, imported = json.loads(run.stdout.splitlines()[-1])
        assert self.host in infos
        assert infos[self.host] is None, infos[self.host]
        assert not imported, f"{package} was imported by the listing of hosts"

    def test_strange_models_and_a_second_attachment_raise_an_error(self) -> None:
        with pytest.raises(HostError, match="no adapter knows"):
            api.attach(torch.nn.Linear(2, 2), dict(self.section))
        with pytest.raises(LesPluginsError) as refusal:
            api.attach(self.model, dict(self.section))
        in_words(refusal.value)

    @pytest.mark.parametrize(
        "what", ["wire", "unknown element", "NaN", "singular cell", "no atoms", "atoms in one place"]
    )
    def test_a_wrong_structure_raises_an_error(self, what: str) -> None:
        with pytest.raises(LesPluginsError) as refusal:
            self.calculator(self.model).get_property("energy", wrong(what))
        in_words(refusal.value)

    def test_uses_that_a_long_range_model_cannot_serve_raise_an_error(
        self, record_property: Callable[[str, object], None]
    ) -> None:
        refusals = self.refusals(self.attached())
        record_property("uses that raise an error", ", ".join(refusals) or "the adapter names none")
        for what, use in refusals.items():
            try:
                use()
            except LesPluginsError as refusal:
                in_words(refusal)
            else:
                pytest.fail(f"{what} was not refused")


def wrong(what: str) -> Atoms:
    """A structure that no long-range calculator may answer for."""
    atoms = waters()
    if what == "wire":
        atoms.pbc = (True, False, False)
    elif what == "unknown element":
        atoms.numbers[0] = 118  # foundation models know gold
    elif what == "NaN":
        atoms.positions[0, 0] = np.nan
    elif what == "atoms in one place":
        atoms.positions[4] = atoms.positions[1] + atoms.cell[0]
    elif what == "singular cell":
        atoms.cell[2] = atoms.cell[1]
    else:
        atoms = Atoms(cell=atoms.cell, pbc=True)
    return atoms


def close(found: object, expected: torch.Tensor) -> None:
    """Equal but for the order in which neighbours are summed."""
    np.testing.assert_allclose(np.asarray(found), expected.detach().numpy(), rtol=1e-11, atol=1e-10)


def in_words(refusal: Exception) -> None:
    """A sentence, not the name of a key or nothing at all."""
    assert len(str(refusal).split()) >= 4, f"says too little: {str(refusal)!r}"
