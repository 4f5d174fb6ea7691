"""
2 Infrared and Raman spectrum of a liquid
=========================================

You get the infrared absorption of liquid water in absolute units with error bars, and the isotropic Raman spectrum,
from a model that was trained on energies and forces only.

The commands below run with a few steps, so that you see what they print. The figures come from two stored
trajectories that the same commands made with more steps. They are still **short**: 1.5 ps each, of 64
molecules. Wavenumbers are right to the resolution of 200 cm⁻¹, intensities to the error bars. :doc:`/results/index` has
the spectrum of a long simulation.

Run this script in an environment with ``pip install -e ".[mace,plot]"``, from a clone of the repository.
"""

import shlex
import subprocess
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import les_plugins
from les_plugins.spectra import Welch, check_anisotropic, infrared, raman

work = Path(tempfile.mkdtemp())
clone = Path(les_plugins.__file__).parents[1]


def run(command):
    """Run a command in the folder `work` and print it with its output."""
    done = subprocess.run(shlex.split(command), cwd=work, capture_output=True, text=True)
    print(f"$ {command}")
    print(done.stdout)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])


# %%
# Equilibrate
# -----------
#
# Start from the packaged box of water. A thermostat brings it to 300 K. No current is needed yet. For a spectrum of
# your own take ``--timestep 0.5 --steps 20000``, 10 ps.

run("les-plugins zoo structures --copy water-64")
run(
    "les-plugins md water-mace water-64.xyz -o equilibrated.h5 --ensemble nvt --temperature 300 --timestep 1 "
    "--steps 10 --no-current --seed 1"
)

# %%
# Record the current
# ------------------
#
# The spectrum needs the current J = Σ Z\* v without a thermostat: ``nve``. A frame with J costs about five times a
# step, so record every 4 fs. That reaches up to 4000 cm⁻¹. The run goes on from the last frame with its velocities.

run("les-plugins md water-mace equilibrated.h5 -o nve.h5 --timestep 1 --steps 12 --every 4")

# %%
# The second stored trajectory began at the same frame with velocities drawn anew:
# ``--velocities draw --temperature 300 --seed 2``. Two runs that know nothing of each other make the error bars honest.

# %%
# Check the equilibration
# -----------------------
#
# From here on we use the stored series. Look at temperature and potential energy first: both must fluctuate about a
# constant before you record anything.

stored = np.load(clone / "docs" / "tutorials" / "water_64_series.npz")
figure, (top, bottom) = plt.subplots(2, 1, figsize=(6.5, 4.4), sharex=True, layout="constrained")
time = stored["equilibration_time"] / 1000
top.plot(time, stored["equilibration_temperature"])
top.axhline(300, color="black", linewidth=0.8)
top.set(ylabel="temperature (K)", title="64 H₂O, water-mace, NVT at 300 K")
potential = stored["equilibration_potential_energy"]
bottom.plot(time, (potential - potential.mean()) / 64 * 1000)
bottom.set(xlabel="time (ps)", ylabel="potential energy\nfrom its mean (meV/H₂O)")

# %%
# Infrared
# --------
#
# ``les-plugins spectra ir nve.h5 nve2.h5 -o ir`` does what follows in Python. Each trajectory is cut into blocks. The
# error bar is the 68 % interval of the mean over the blocks.

how = Welch(resolution=200.0)
interval = float(stored["interval"])  # fs
currents = [stored["current_1"], stored["current_2"]]  # (T, 3) e·Å/fs
temperatures = [stored["temperature_1"].mean(), stored["temperature_2"].mean()]  # K
volume = float(stored["volume"])  # Å³
absorption = infrared(currents, interval, temperatures, volume, how)
lengths = ", ".join(f"{len(series) * interval / 1000:.2f} ps" for series in currents)
print(f"{len(currents)} trajectories of {lengths}, {absorption.blocks} blocks")
print(f"highest band: {absorption.between(2500, 4000).peak:.0f} cm⁻¹")

measured = (686.0, 1644.0, 3404.0)  # cm⁻¹, Bertie and Lan, Appl. Spectrosc. 50, 1047 (1996)


def draw(spectrum, axes):
    """A spectrum up to 4000 cm⁻¹ with its error band."""
    shown = spectrum.between(0, 4000)
    axes.plot(shown.wavenumber, shown.value, color="tab:blue", label="model")
    axes.fill_between(
        shown.wavenumber, shown.value - shown.error, shown.value + shown.error, alpha=0.3, label="68 % interval"
    )
    for number, band in enumerate(measured):
        axes.axvline(
            band,
            color="black",
            linestyle=":",
            label=None if number else "infrared, measured (Bertie and Lan, 1996)",
        )
    axes.set(xlabel="wavenumber (cm⁻¹)", xlim=(0, 4000), ylim=(0, None))
    axes.ticklabel_format(axis="y", scilimits=(-3, 3), useMathText=True)
    axes.legend()


figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
draw(absorption, axes)
axes.set(ylabel="n(ν) α(ν) (cm⁻¹)", title="Infrared absorption, 64 H₂O, water-mace, 300 K, resolution 200 cm⁻¹")

# %%
# The three bands are libration, bend and stretch. Nothing is scaled and no dipole was trained on. To see narrower bands
# run longer: the resolution is one over the length of a segment, and the error bars fall with the square root of the
# number of blocks.
#
# Raman
# -----
#
# The polarizability α comes with every frame. Its trace gives the isotropic Raman spectrum.

polarizabilities = [stored["polarizability_1"], stored["polarizability_2"]]  # (T, 3, 3) e²·Å²/eV
spectra = raman(polarizabilities, interval, how, temperature=300.0)
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
draw(spectra.isotropic, axes)
axes.set(ylabel=f"intensity ({spectra.isotropic.unit})")
axes.set_title("Isotropic Raman spectrum, 64 H₂O, water-mace, 300 K, resolution 200 cm⁻¹")

# %%
# The anisotropic part needs polarizabilities with a direction. The models of water in the zoo have scalar ones. The
# command ``les-plugins spectra raman`` therefore stops with this error:

try:
    check_anisotropic(polarizabilities, "nve.h5")
except les_plugins.LesPluginsError as error:
    print("error:", error)

# %%
# Train with ``response: {dipole: anisotropic}`` to get parallel and perpendicular spectra and the depolarization ratio.
#
# For a spectrum to publish: 10 ps of equilibration, several trajectories of 20 ps or more with a time step of 0.5 fs,
# ``les-plugins analyze drift`` on each, and ``les-plugins spectra ir nve*.h5 -o ir`` on all of them together.
