"""Every case of the shared reference numbers, where they lie beside the repository, by the direct sum and the mesh."""

import importlib.util
import json
from functools import partial
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "reference"
CASES = sorted(FOLDER.glob("[0-9]*.json"))
PERIODIC = [path for path in CASES if "pbc" in path.stem and "bec" not in path.stem]


def differences(path, **settings):
    """Quantities of a case that are further from the reference than the reference allows."""
    dtype = torch.get_default_dtype()
    spec = importlib.util.spec_from_file_location("reference_check", FOLDER / "check.py")
    check = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(check)  # sets float64 as the default
        check.LatentElectrostatics = partial(check.LatentElectrostatics, **settings)
        case = json.loads(path.read_text())
        results = check.bec_case(case) if "BEC" in case["outputs"] else check.energy_case(case)
    finally:
        torch.set_default_dtype(dtype)
    return {name: error for name, (error, tolerance) in results.items() if not error <= tolerance}


@pytest.mark.skipif(not CASES, reason="no shared/reference beside the repository")
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_layer_agrees_with_the_independent_implementation(path):
    # each quantity comes with the tolerance that the reference states for it
    assert differences(path) == {}


@pytest.mark.skipif(not PERIODIC, reason="no shared/reference beside the repository")
@pytest.mark.parametrize("path", PERIODIC, ids=lambda path: path.stem)
def test_mesh_agrees_with_the_independent_implementation(path):
    # the finest mesh there is: the reference allows 1e-8
    assert differences(path, method="mesh", mesh_tolerance=1e-9) == {}
