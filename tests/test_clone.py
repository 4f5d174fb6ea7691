"""Python in the root of a clone, where the modules come from the folder itself and the zoo from the installation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIST = "import les_plugins\nfrom les_plugins.storage import zoo\nprint(les_plugins.__file__, *zoo.names())\n"
#: As after `pip install .`, which leaves no finder of an editable installation.
WITHOUT_EDITABLE = "import sys\nsys.meta_path = [f for f in sys.meta_path if 'editable' not in str(f).lower()]\n"


#: Torch stays, which takes seconds.
AGAIN = "for name in [m for m in sys.modules if m.startswith('les_plugins')]:\n    del sys.modules[name]\n"


@pytest.fixture(scope="module")
def said() -> subprocess.CompletedProcess[str]:
    """One process: with the finder of an editable installation, then without."""
    code = LIST + WITHOUT_EDITABLE + AGAIN + LIST
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_zoo_is_found_in_the_root_of_a_clone(said):
    file, *names = said.stdout.split()
    assert Path(file) == ROOT / "les_plugins" / "__init__.py"
    assert "water-mace" in names


def test_a_clone_that_was_installed_without_e_says_what_to_do(said):
    assert said.returncode == 1
    line = said.stderr.splitlines()[-1]
    assert line.startswith(f"les_plugins.errors.CheckpointError: {ROOT} is a clone of les-plugins")
    assert line.endswith("pip install -e . there, or start Python in another folder")
