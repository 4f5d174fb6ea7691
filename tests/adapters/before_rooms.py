"""Numbers that the files of tests/adapters/before_rooms gave when they were made, and the comparison with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

FOLDER = Path(__file__).parent / "before_rooms"


def check(calculator: Any, name: str) -> None:
    """Compare energy, forces and charges with those kept for a file; `name` begins with that of its host.

    Sums are taken in another order on other machines: 1e-10 is far above rounding in float64.
    """
    kept = json.loads((FOLDER / f"{name.partition('.')[0]}.json").read_text())
    expected, atoms = kept["files"][name], Atoms(**kept["structure"], calculator=calculator)
    np.testing.assert_allclose(atoms.get_potential_energy(), expected["energy"], rtol=1e-10)
    np.testing.assert_allclose(atoms.get_forces(), expected["forces"], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(calculator.results["charges"], expected["charges"], rtol=1e-10, atol=1e-10)
    assert np.abs(expected["charges"]).max() > 0.01, "a model without charges would show nothing"
