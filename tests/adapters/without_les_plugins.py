"""Evaluates a packaged NequIP model in a process in which les-plugins does not exist: PACKAGE STRUCTURE."""

from __future__ import annotations

import importlib.abc
import importlib.metadata
import sys
from typing import Any

import ase.io


class _Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] == "les_plugins":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def main() -> None:
    sys.meta_path.insert(0, _Missing())
    entry_points = importlib.metadata.entry_points

    def without_ours(**parameters: Any) -> Any:
        found = entry_points(**parameters)
        if not parameters:
            return found
        return importlib.metadata.EntryPoints(entry for entry in found if not entry.value.startswith("les_plugins"))

    importlib.metadata.entry_points = without_ours  # type: ignore[assignment]
    from nequip.integrations.ase import NequIPCalculator

    atoms = ase.io.read(sys.argv[2])
    atoms.calc = NequIPCalculator._from_saved_model(sys.argv[1], chemical_species_to_atom_type_map=True)
    numbers = [atoms.get_potential_energy(), *atoms.get_forces().ravel()]
    assert not any(name.startswith("les_plugins") for name in sys.modules)
    sys.stdout.write(" ".join(repr(float(number)) for number in numbers) + "\n")


if __name__ == "__main__":
    main()
