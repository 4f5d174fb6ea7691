"""
6 Write an adapter
==================

Your framework has no adapter yet. You get a package of your own that adds the long-range part to it, without a change
to les-plugins or to the framework.

The repository holds a template, ``examples/adapter_template``. It contains a small SchNet-like potential,
``tiny_schnet``, that stands for your framework, and its adapter, ``les_tiny_schnet``. This tutorial installs the
template, trains with it and runs the contract. :doc:`/how-to/write-an-adapter` explains the adapter line by line.

Run this script in an environment with ``pip install -e ".[testing,plot]"``, from a clone of the repository.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import ase.io
import matplotlib.pyplot as plt
import numpy as np
import yaml

import les_plugins

clone = Path(les_plugins.__file__).parents[1]
work = Path(tempfile.mkdtemp())
site = work / "site"  # where the template is installed, so that your environment stays as it is
environment = os.environ | {"PYTHONPATH": str(site)}


def run(command, last_lines=None):
    """Run a command in the folder `work` and print it with its output."""
    done = subprocess.run(shlex.split(command), cwd=work, capture_output=True, text=True, env=environment)
    lines = done.stdout.splitlines()
    print(f"$ {command}", *lines[-last_lines:] if last_lines else lines, sep="\n")
    if done.returncode:
        raise RuntimeError(done.stdout[-1000:] + done.stderr[-2000:])


# %%
# Install the template
# --------------------
#
# A folder ``my_adapter`` with the template is your starting point. The entry point in its ``pyproject.toml`` makes
# les-plugins find it:
#
# .. code-block:: toml
#
#    [project.entry-points.les_plugins]
#    tiny_schnet = "les_tiny_schnet.plugin"

shutil.copytree(clone / "examples" / "adapter_template", work / "my_adapter")
subprocess.run(
    [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, work / "my_adapter"], check=True
)
run("les-plugins hosts")

# %%
# Train
# -----
#
# Make the data of the first tutorial. Then write a config of the framework with the section ``long_range:`` in it.

run(f"python {clone}/examples/quickstart/make_data.py data")
frames = ase.io.read(work / "data" / "train.xyz", ":")
for atoms in frames:  # this framework reads labels under ASE's own names
    atoms.info["energy"], atoms.arrays["forces"] = atoms.info.pop("REF_energy"), atoms.arrays.pop("REF_forces")
ase.io.write(work / "ions.xyz", frames, format="extxyz")
config = {
    "model": {"elements": [11, 17], "cutoff": 4.0, "channels": 8, "layers": 2, "mean_neighbors": 1.0},
    "data": "ions.xyz",
    "epochs": 4,
    "learning_rate": 0.005,
    "checkpoint": "ions.les",
    "long_range": {"multipoles": ["charge"]},
}
(work / "ions.yaml").write_text(yaml.safe_dump(config))
run("les-plugins train tiny_schnet --config ions.yaml")

# %%
# Use the model
# -------------
#
# Every command works with the new host. From Python, ``les_plugins.load("ions.les")`` gives the ASE calculator.

run("les-plugins predict ions.les data/test.xyz -o predicted.xyz")
test = ase.io.read(work / "predicted.xyz", ":")
predicted = np.concatenate([atoms.get_forces().ravel() for atoms in test])
reference = np.concatenate([atoms.arrays["REF_forces"].ravel() for atoms in test])
error = 1000 * np.sqrt(np.mean((predicted - reference) ** 2))
charges = test[0].calc.results["charges"]
print("charges:", *(f"{symbol} {charge:+.2f}" for symbol, charge in zip(test[0].symbols, charges, strict=True)), "e")

figure, axes = plt.subplots(figsize=(4.6, 4.4), layout="constrained")
axes.plot(reference, predicted, ".", markersize=3)
axes.axline((0, 0), slope=1, color="black", linewidth=0.8)
axes.set(xlabel="reference force (eV/Å)", ylabel="model force (eV/Å)", xlim=(-5, 5), ylim=(-5, 5), aspect="equal")
axes.set_title(f"TinySchNet with long_range:, 40 test frames\nof 6 ions, RMSE {error:.0f} meV/Å", fontsize="medium")

# %%
# Run the contract
# ----------------
#
# ``les-plugins check`` runs the laws that every adapter keeps: invariance, forces and stress as derivatives, the same
# numbers in a fresh process, errors for misspelt keys, and more. Each failure says which law broke and by how much.

run("les-plugins check tiny_schnet", last_lines=12)

# %%
# Your own framework
# ------------------
#
# Remove the folder ``tiny_schnet``, make your framework a dependency, and replace the names of the template in
# ``plugin.py``, ``adapter.py`` and ``contract.py``. :doc:`/how-to/write-an-adapter` says what to fill in, and what a
# first run of the contract fails with. For a framework whose model returns forces itself, start from
# ``examples/force_template``. Run ``les-plugins check NAME`` after each step; ``-k`` selects laws. When it passes, the
# adapter is done.
