"""
3 Phonons with LO–TO splitting
==============================

In a polar crystal a long-wavelength longitudinal optical (LO) phonon carries a macroscopic field, a transverse one (TO)
does not. The field raises the LO frequency. phonopy adds it from the Born effective charges Z\\* and the electronic
dielectric constant ε_∞. A long-range model has Z\\*, so one command gives the phonons with the splitting.

This tutorial goes on with ``ions.les``, the model that :doc:`plot_1_training` trained on a gas of ions. It has seen no
crystal. Run it in an environment with ``pip install -e ".[mace,plot,phonons]"``.
"""

import json
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import ase.io
import matplotlib.pyplot as plt
import numpy as np
from ase.build import bulk

tutorials = Path(tempfile.gettempdir()) / "les-plugins-tutorials"  # where the first tutorial left its model
work = tutorials / "phonons"
shutil.rmtree(work, ignore_errors=True)
shutil.copytree(tutorials / "ions.les", work / "ions.les")


def run(command):
    """Run a command in the folder `work` and print it with its output."""
    done = subprocess.run(shlex.split(command), cwd=work, capture_output=True, text=True)
    print(f"$ {command}")
    print(done.stdout)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])


# %%
# The crystal
# -----------
#
# Rock salt, primitive cell. Relax it first: phonons are those of a structure at rest.

ase.io.write(work / "nacl.xyz", bulk("NaCl", "rocksalt", a=5.64))
run("les-plugins relax ions.les nacl.xyz -o relaxed.xyz")

# %%
# The phonons
# -----------
#
# ``--born`` computes Z\* in the supercell and takes ε_∞ from the model. Here ε_∞ is 1: the ions of the training data do
# not polarize. For a real crystal give ``epsilon_infinity`` in the config, or ``--epsilon-infinity`` here.

run("les-plugins phonons ions.les relaxed.xyz --supercell 3 3 3 --born --path LGXWG -o nacl")
report = json.loads((work / "nacl" / "phonons.json").read_text())
for symbol, tensor in zip(report["primitive_symbols"], report["born_effective_charges"], strict=True):
    print(f"Z* of {symbol}: {tensor[0][0]:+.3f} e")

# %%
# Check three numbers.
#
# - The acoustic modes at Γ are zero. The *largest mean Z\** is made zero too. Before that it should be small against
#   Z\*. Here it is not: the model trained for a minute on a gas, and a crystal is far from that.
# - Without Z\* the three optical modes at Γ are equal. With Z\* one of them is higher, for every direction.
# - The splitting follows :math:`\omega_{LO}^2-\omega_{TO}^2 = Z^{*2}e^2/(\varepsilon_0\varepsilon_\infty V\mu)`, with
#   the volume V of the primitive cell and the reduced mass μ:

relaxed = ase.io.read(work / "relaxed.xyz")
gamma = report["gamma_THz"]
transverse, longitudinal = gamma["with_born_x"][3], gamma["with_born_x"][5]
mass = 1 / (1 / relaxed.get_masses()).sum()  # u
born = np.array(report["born_effective_charges"])[0, 0, 0]
coulomb = 14.399645  # e²/(4π ε0), eV·Å
squared = 4 * np.pi * coulomb * born**2 / (relaxed.get_volume() * mass)  # eV/(Å² u)
terahertz = np.sqrt(1.602176634e-19 / 1e-20 / 1.66053907e-27) / (2 * np.pi * 1e12)  # of sqrt(eV/(Å² u))
print(f"TO {transverse:.2f} THz, LO {longitudinal:.2f} THz")
print(f"LO from the formula: {np.sqrt(transverse**2 + squared * terahertz**2):.2f} THz")

# %%
# The picture
# -----------
#
# ``nacl/bands.png`` shows bands and density of states. Here we draw the bands from ``nacl/bands.csv``.

table = np.genfromtxt(work / "nacl" / "bands.csv", delimiter=",", skip_header=1)
segment, distance, branch, bare, corrected = table[:, [0, 1, 5, 6, 8]].T  # 1/Å, THz
points = "LGXWG"
figure, axes = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
for number in np.unique(segment):
    for mode in np.unique(branch):
        here = (segment == number) & (branch == mode)
        labels = ("without Z*", "with Z*") if number == mode == 0 else (None, None)
        axes.plot(distance[here], bare[here], color="tab:orange", linestyle="--", linewidth=1, label=labels[0])
        axes.plot(distance[here], corrected[here], color="tab:blue", linewidth=1.5, label=labels[1])
ends = [0.0, *(distance[segment == number].max() for number in np.unique(segment))]
for end in ends:
    axes.axvline(end, color="gray", linewidth=0.6)
axes.set_xticks(ends, [{"G": "Γ"}.get(point, point) for point in points])
axes.set(xlim=(0, ends[-1]), ylim=(0, None), ylabel="frequency (THz)")
axes.set_title("NaCl, MACE of tutorial 1, supercell 3×3×3 (54 atoms)")
axes.legend(loc="upper right")

# %%
# At wave vectors that fit into the supercell both sets of bands are equal. Between them, most of all near Γ, the bands
# without Z\* are wrong. A model of your own needs the same three steps: relax, phonons with ``--born``, and the check
# of Z\*. :doc:`/how-to/phonons` lists the options and the files.
