"""Python in the root of a clone, where the modules come from the folder itself and the zoo from the installation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIST = "import les_plugins\nfrom les_plugins.storage import zoo\nprint(les_plugins.__file__, *zoo.names())"
#: As after `pip install .`, which leaves no finder of an editable installation.
WITHOUT_EDITABLE = "import sys\nsys.meta_path = [f for f in sys.meta_path if 'editable' not in str(f).lower()]\n"


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_zoo_is_found_in_the_root_of_a_clone():
    file, *names = python(LIST).stdout.split()
    assert Path(file) == ROOT / "les_plugins" / "__init__.py"
    assert "water-mace" in names


def test_a_clone_that_was_installed_without_e_says_what_to_do():
    done = python(WITHOUT_EDITABLE + LIST)
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"les_plugins.errors.CheckpointError: {ROOT} is a clone of les-plugins")
    assert line.endswith("pip install -e . there, or start Python in another folder")
