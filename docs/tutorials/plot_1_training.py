"""
1 From your data to a trained model
===================================

You have frames with energies and forces. You get a model with long-range electrostatics, and three tests that show
whether it worked.

The data of this tutorial have a known answer. Three Na\\ :sup:`+` and three Cl\\ :sup:`−` ions lie at random in a box
of 10 Å without periodic boundaries. They repel at short distance and attract or repel by Coulomb's law. Most ions are
further apart than the 4 Å that the model sees, so a short-range model must fail.

Run this script in an environment with ``pip install -e ".[mace,plot]"``, from a clone of the repository.
"""

import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import ase.io
import matplotlib.pyplot as plt
import numpy as np
import yaml
from ase import Atoms

import les_plugins

clone = Path(les_plugins.__file__).parents[1]
work = Path(tempfile.gettempdir()) / "les-plugins-tutorials"  # every file goes here; tutorials 3 and 4 go on with them
shutil.rmtree(work, ignore_errors=True)
work.mkdir()


def run(command, last_lines=None):
    """Run a command in the folder `work` and print it with its output."""
    done = subprocess.run(shlex.split(command), cwd=work, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    print(f"$ {command}", *lines[-last_lines:] if last_lines else lines, sep="\n")
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])


# %%
# The data
# --------
#
# A script of the repository makes the data: 80 frames to train on, 20 to choose the best epoch, 40 to test.

run(f"python {clone}/examples/quickstart/make_data.py data")

# %%
# The frames are extended XYZ. Each has an energy in eV and forces in eV/Å. Name your labels ``REF_energy`` and
# ``REF_forces``: ASE takes labels called ``energy`` and ``forces`` for results of a calculator.

test = ase.io.read(work / "data" / "test.xyz", ":")
print(f"{len(test)} frames of {test[0].symbols}, E = {test[0].info['REF_energy']:.3f} eV")
print("labels:", *test[0].info, *(name for name in test[0].arrays if name.startswith("REF")))

# %%
# The test frames also have exact dipoles and Born effective charges. No model is trained on them.
#
# The config
# ----------
#
# The config is MACE's own file with one section more, ``long_range:``. We write it twice: with the section, and
# without it for comparison. The model is tiny, so that this tutorial takes a minute.

config = {
    "name": "ions",
    "train_file": "data/train.xyz",
    "valid_file": "data/valid.xyz",
    "energy_key": "REF_energy",
    "forces_key": "REF_forces",
    "E0s": "{11: 0.0, 17: 0.0}",
    "model": "ScaleShiftMACE",
    "hidden_irreps": "8x0e + 8x1o",
    "num_interactions": 2,
    "correlation": 2,
    "max_ell": 2,
    "r_max": 4.0,
    "energy_weight": 10.0,
    "forces_weight": 100.0,
    "batch_size": 4,
    "max_num_epochs": 8,
    "eval_interval": 4,
    "lr": 0.01,
    "scheduler": "ExponentialLR",
    "lr_scheduler_gamma": 0.7,
    "ema": True,
    "ema_decay": 0.98,
    "default_dtype": "float32",
    "seed": 1,
    "plot": False,
    "long_range": {"multipoles": ["charge", "dipole"]},
}
(work / "ions.yaml").write_text(yaml.safe_dump(config))
short_range = {key: value for key, value in config.items() if key != "long_range"} | {"name": "short"}
(work / "short.yaml").write_text(yaml.safe_dump(short_range))

# %%
# Train
# -----
#
# The trainer is MACE's, and so is its log. We show its end. The last line names the checkpoint.

run("les-plugins train mace --config ions.yaml", last_lines=9)
run("les-plugins train mace --config short.yaml", last_lines=9)

# %%
# The validation error of the forces falls by about a factor of ten when the section is there. That is the first test:
# **train with and without the section, with the same settings and the same number of epochs**. If the errors are the
# same, your data have no long-range part that matters, or something is wrong in the config.
#
# Evaluate on frames that the training never saw
# ----------------------------------------------

run("les-plugins evaluate ions.les data/test.xyz")

# %%
# Read three things from this table.
#
# - *Forces*, RMSE: compare it with the validation error above. A much larger value means too few training frames.
# - *Energy, offset removed*: the error without a constant shift per atom. It matters when reference energies are far
#   off.
# - *Born charges Z\**: this is the second test. The model saw no charge in training. The potential that made the data
#   has charges of ±1 e, and the slope says how close the model comes. Your own data seldom have Z\*: then look at their
#   values with ``les-plugins plot charges``. Elements must have the sign that chemistry expects.
#
# The picture
# -----------
#
# ``les-plugins evaluate --plots FOLDER`` draws parity plots. Here we draw our own from Python. The checkpoint loads as
# an ASE calculator.


def predictions(name):
    """Forces of all test frames, (frames × atoms × 3,) eV/Å, from the checkpoint `name`."""
    calculator = les_plugins.load(work / name)
    return np.concatenate([calculator.get_property("forces", atoms).ravel() for atoms in test])


reference = np.concatenate([atoms.arrays["REF_forces"].ravel() for atoms in test])
calculator = les_plugins.load(work / "ions.les")
born = {"Na": [], "Cl": []}
for atoms in test:
    tensors = calculator.get_property("born_effective_charges", atoms)  # (N, 3, 3) e
    for symbol, tensor in zip(atoms.symbols, tensors, strict=True):
        born[symbol].append(np.trace(tensor) / 3)

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.8), layout="constrained")
for axes, name, title in ((left, "short.les", "without long_range:"), (middle, "ions.les", "with long_range:")):
    forces = predictions(name)
    error = 1000 * np.sqrt(np.mean((forces - reference) ** 2))
    axes.plot(reference, forces, ".", markersize=3)
    axes.axline((0, 0), slope=1, color="black", linewidth=0.8)
    axes.set(xlabel="reference force (eV/Å)", ylabel="model force (eV/Å)", title=f"{title} RMSE {error:.0f} meV/Å")
    axes.set(xlim=(-5, 5), ylim=(-5, 5), aspect="equal")
right.hist(list(born.values()), bins=np.linspace(-1.3, 1.3, 53), label=list(born), histtype="stepfilled", alpha=0.8)
for charge in (-1, 1):
    right.axvline(charge, color="black", linewidth=0.8)
right.set(xlabel="tr Z*/3 (e)", ylabel="atoms", title="Born charges (lines: exact)")
right.legend()
figure.suptitle("MACE, 8x0e + 8x1o, 40 test frames of 6 ions")

# %%
# A limit that you know
# ---------------------
#
# The third test is a limit with a known answer. Two ions far apart attract with :math:`-k_e e^2/r`. No training frame
# held a single pair.

distances = np.linspace(2.5, 12, 60)
pairs = [Atoms("NaCl", [[0, 0, 0], [r, 0, 0]]) for r in distances]
figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
repulsion = 1256.3 * np.exp(-distances / 0.317)  # eV, of the potential that made the data
axes.plot(distances, repulsion - 14.3996 / distances, color="black", label="exact")
for name, label in (("ions.les", "with long_range:"), ("short.les", "without long_range:")):
    calculator = les_plugins.load(work / name)
    energies = np.array([calculator.get_property("energy", pair) for pair in pairs])
    axes.plot(distances, energies, "--", label=label)
axes.axvline(4.0, color="gray", linewidth=0.8)
axes.annotate("cutoff of the model", (4.1, 0.02), xycoords=("data", "axes fraction"), color="gray")
axes.set(xlabel="Na–Cl distance (Å)", ylabel="energy (eV)", title="One pair of ions, MACE 8x0e + 8x1o")
axes.legend()

# %%
# Without the section the energy is constant once each ion is alone within its cutoff. With it, the energy follows −1/r.
#
# %%
# What to change for your own data
# --------------------------------
#
# - ``train_file``, ``valid_file``: your frames. Periodic frames need ``pbc="T T T"`` and a ``Lattice``.
# - ``E0s``: the energies of isolated atoms of your reference calculation.
# - ``r_max: 5`` or more, ``hidden_irreps: 64x0e + 64x1o`` or more, and some hundred epochs.
# - ``long_range:`` for a liquid or a crystal: ``multipoles: [charge, dipole, quadrupole]``,
#   ``response: {dipole: isotropic}``, ``total_charge: conserved``, and ``epsilon_infinity``, the electronic dielectric
#   constant of the material. :doc:`/reference/configuration` lists all keys.
