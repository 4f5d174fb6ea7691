"""Laws of results in other people's hands: several threads, ASE's files and database."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator

from les_plugins.testing.host import ContractHost
from les_plugins.testing.structures import waters

#: Compared between threads.
SHARED = ("energy", "forces", "charges", "dipole", "born_effective_charges")


class Sharing(ContractHost):
    """What a calculator returns is its own, exact, and can be kept."""

    @pytest.mark.parametrize("field", [False, True], ids=["no field", "field"])
    def test_calculators_of_one_model_in_threads_give_what_they_give_one_after_the_other(self, field: bool) -> None:
        """ASE's NEB runs its images so. A calculator that keeps results on the shared model is found out."""
        frames = [waters(1, seed=1, pbc=False), waters(2, seed=2, pbc=False), waters(3, seed=3), waters(2, seed=4)]
        calculators = [self.calculator(self.model) for _ in frames]
        if field:
            if not getattr(calculators[0], "takes_external_field", False):
                return
            for calculator in calculators:
                calculator.external_field = [0.1, -0.2, 0.15]
        expected = [results(calculator, atoms) for calculator, atoms in zip(calculators, frames, strict=True)]
        found: list[list[Mapping[str, Any]]] = [[] for _ in frames]
        start = threading.Barrier(len(frames))

        def work(number: int) -> None:
            start.wait()
            for _ in range(4):
                calculators[number].reset()
                found[number].append(results(calculators[number], frames[number]))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(len(frames))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number, alone in enumerate(expected):
            assert len(found[number]) == 4, f"thread {number} stopped with an error"
            for together in found[number]:
                for name, value in alone.items():
                    # torch may divide a sum in another way among fewer cores
                    np.testing.assert_allclose(together[name], value, rtol=1e-11, atol=1e-10, err_msg=name)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
    @pytest.mark.parametrize("bare", [False, True], ids=["long range", "short range"])
    def test_results_are_float64_and_contiguous(self, dtype: torch.dtype, bare: bool) -> None:
        """ASE's database keeps bytes and reads them as float64: other numbers would come back."""
        calculator = self.calculator(self.make_model(dtype=dtype) if bare else self.attached(dtype=dtype))
        for atoms in (waters(2), waters(2, pbc=False)):
            found = {name: calculator.get_property(name, atoms) for name in ("energy", "forces")}
            if not bare:
                calculator.get_property("born_effective_charges", atoms)
            found.update({name: calculator.results[name] for name in self.results_of(calculator)})
            assert type(found["energy"]) is float
            for name, value in found.items():
                if isinstance(value, np.ndarray):
                    assert value.dtype == np.float64, f"{name} is {value.dtype}"
                    assert value.flags.c_contiguous, name
                else:  # an integer counts something of the host's, a word names where a result comes from
                    assert isinstance(value, float | int | str), f"{name} is a {type(value).__name__}"

    def test_an_open_structure_has_no_stress(self) -> None:
        for model in (self.model, self.make_model()):
            calculator, atoms = self.calculator(model), waters(2, pbc=False)
            atoms.calc = calculator
            atoms.get_potential_energy()
            assert "stress" not in calculator.results
            with pytest.raises(PropertyNotImplementedError):
                atoms.get_stress()

    def test_a_structure_with_its_results_can_be_written_to_ases_files(self, tmp_path: Path) -> None:
        calculator, atoms = self.calculator(self.attached(dtype=torch.float32)), waters(2)
        atoms.calc = calculator
        born = calculator.get_property("born_effective_charges", atoms)
        assert born.shape == calculator.results["born_effective_charges"].shape == (len(atoms), 3, 3)
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        exported = atoms.copy()
        exported.calc = SinglePointCalculator(exported, **calculator.results)
        for source in (atoms, exported):
            for name in ("x.extxyz", "x.traj", "x.json"):
                ase.io.write(tmp_path / name, source)
                read = ase.io.read(tmp_path / name)
                assert isinstance(read, Atoms)
                same(read, energy, forces)
            with ase.db.connect(tmp_path / "x.db", append=False) as database:
                database.write(source)
                same(next(database.select()).toatoms(), energy, forces)

    def results_of(self, calculator: Any) -> list[str]:
        """Names of everything that a calculator holds, those that its results do not show among them."""
        found = calculator.results
        return list(found.everything() if hasattr(found, "everything") else found)


def results(calculator: Any, atoms: Atoms) -> dict[str, Any]:
    """What threads are compared by; Born effective charges first, so that one evaluation gives all."""
    return {name: calculator.get_property(name, atoms.copy()) for name in reversed(SHARED)}


def same(read: Atoms, energy: float, forces: Any) -> None:
    """Energy and forces of what was written and read: extended XYZ has eight digits behind the point."""
    assert read.get_potential_energy() == pytest.approx(energy, abs=1e-8)
    np.testing.assert_allclose(read.get_forces(), forces, rtol=0, atol=1e-7)
