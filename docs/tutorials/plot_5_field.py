"""
5 A molecule and a slab in a field
==================================

A uniform electric field :math:`\\boldsymbol E` acts on charges and dipoles, and polarizes them. You get energy, forces
and dipole in the field, for a molecule and for a slab, and you check them against

.. math:: U(\\boldsymbol E) = U(0) - \\boldsymbol P\\cdot\\boldsymbol E
          - \\tfrac12 \\boldsymbol E\\cdot\\boldsymbol\\alpha\\cdot\\boldsymbol E,

with the dipole :math:`\\boldsymbol P` in e Å, the polarizability :math:`\\boldsymbol\\alpha` in e² Å²/eV and the field
in V/Å. One V/Å is 10\\ :sup:`10` V/m.

Run this script in an environment with ``pip install ".[mace,plot]"``. The model ``water-mace`` comes with the package.
It was trained on liquid water, and neither on single molecules nor on surfaces: the relations between the numbers hold
for every model, the values are those of this one.
"""

import ase.io
import matplotlib.pyplot as plt
import numpy as np
from ase.build import molecule

import les_plugins
from les_plugins.storage.zoo import structure

calculator = les_plugins.load("water-mace")

# %%
# A molecule
# ----------
#
# ``pbc`` decides the boundary conditions. A molecule has ``pbc=False`` and needs no cell.

water = molecule("H2O")
water.calc = calculator
energy = water.get_potential_energy()
dipole = calculator.get_property("dipole", water)
polarizability = calculator.get_property("polarizability", water)
print(f"E = {energy:.4f} eV")
print(f"P = {np.round(dipole, 4)} e·Å")
print("α =", *np.round(polarizability, 4), "e²·Å²/eV", sep="\n")

# %%
# The attribute ``external_field`` of the calculator switches the field on. Energy, forces and dipole are then those in
# the field.

strengths = np.linspace(-0.5, 0.5, 11)  # V/Å
energies, dipoles = [], []
for strength in strengths:
    calculator.external_field = (0.0, 0.0, strength)
    energies.append(calculator.get_property("energy", water))
    dipoles.append(calculator.get_property("dipole", water)[2])
calculator.external_field = None

expected = -dipole[2] * strengths - 0.5 * polarizability[2, 2] * strengths**2
print(f"largest deviation from the quadratic form: {abs(np.array(energies) - energy - expected).max():.1e} eV")

# %%
# The forces are the derivatives of the energy in the field. Check one by central differences.

calculator.external_field = (0.0, 0.0, 0.3)
force = water.get_forces()[0, 2]
plus, minus = water.copy(), water.copy()
plus.positions[0, 2] += 0.01
minus.positions[0, 2] -= 0.01
difference = -(calculator.get_property("energy", plus) - calculator.get_property("energy", minus)) / 0.02
calculator.external_field = None
print(f"force on O along z: {force:.5f} eV/Å, by differences {difference:.5f} eV/Å")

# %%
# A slab
# ------
#
# A slab is periodic along x and y and open along z: ``pbc=(True, True, False)``. The package sums its electrostatics in
# two dimensions, so no dipole correction is needed and the empty space above the slab does not matter.
#
# We cut a slab of 64 molecules from the packaged box of water: the molecules stay whole, the box is opened along z.

slab = ase.io.read(structure("water-64"))
slab.wrap()
oxygens = np.flatnonzero(slab.numbers == 8)
for hydrogen in np.flatnonzero(slab.numbers == 1):  # next to its oxygen, not to an image of it
    bonds = slab.get_distances(hydrogen, oxygens, mic=True, vector=True)
    nearest = np.linalg.norm(bonds, axis=1).argmin()
    slab.positions[hydrogen] = slab.positions[oxygens[nearest]] - bonds[nearest]
slab.pbc = (True, True, False)
area = slab.cell[0, 0] * slab.cell[1, 1]

fields = np.array([-0.10, -0.05, 0.0, 0.05, 0.10])  # V/Å, along the normal, outside the slab
slab_energies, slab_dipoles = [], []
for strength in fields:
    calculator.external_field = (0.0, 0.0, strength)
    slab_energies.append(calculator.get_property("energy", slab))
    slab_dipoles.append(calculator.get_property("dipole", slab)[2])
calculator.external_field = None
slope = np.polyfit(fields, slab_dipoles, 1)[0]
print(f"dipole along the normal without field: {slab_dipoles[2]:.2f} e·Å")
print(f"polarizability along the normal: {slope:.2f} e²·Å²/eV, {slope / area:.4f} e²/eV per area")

# %%
# ``P`` is again minus the derivative of the energy with respect to the field:

derivative = -(slab_energies[3] - slab_energies[1]) / (fields[3] - fields[1])
print(f"-dU/dE = {derivative:.3f} e·Å, dipole {slab_dipoles[2]:.3f} e·Å")

# %%
# The picture
# -----------

figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
left.plot(strengths, 1000 * (np.array(energies) - energy), "o", label="model in the field")
left.plot(strengths, 1000 * expected, color="black", linewidth=1, label="−P E − ½ α E²")
left.set(xlabel="field along z (V/Å)", ylabel="U(E) − U(0) (meV)", title="one H₂O molecule, pbc F F F")
left.legend()
right.plot(fields, slab_dipoles, "o-")
right.set(
    xlabel="field along z (V/Å)",
    ylabel="dipole along z (e·Å)",
    title="slab of 64 H₂O molecules, pbc T T F",
    xticks=fields,
)
figure.suptitle("water-mace, atoms held fixed")

# %%
# The atoms are held fixed here. To let them follow, run dynamics in the field: ``les-plugins md water-mace START -o
# OUT.h5 --field 0 0 0.05``. Fields in periodic structures, and which quantity is conserved, are explained in
# :doc:`/how-to/spectra` and :doc:`/explanation/boundaries`.
