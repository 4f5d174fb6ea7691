"""Every case of the shared reference numbers, where they lie beside the repository."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "reference"
CASES = sorted(FOLDER.glob("[0-9]*.json"))


@pytest.mark.skipif(not CASES, reason="no shared/reference beside the repository")
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_layer_agrees_with_the_independent_implementation(path):
    dtype = torch.get_default_dtype()
    spec = importlib.util.spec_from_file_location("reference_check", FOLDER / "check.py")
    check = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(check)  # sets float64 as the default
        case = json.loads(path.read_text())
        results = check.bec_case(case) if "BEC" in case["outputs"] else check.energy_case(case)
    finally:
        torch.set_default_dtype(dtype)
    # each quantity comes with the tolerance that the reference states for it
    assert {name: error for name, (error, tolerance) in results.items() if not error <= tolerance} == {}
