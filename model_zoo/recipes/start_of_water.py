"""Boxes of 32 water molecules for a teacher to label, made of nothing but geometry and a published force field.

    python model_zoo/recipes/start_of_water.py runs/water-start.xyz

Molecules packed on a lattice, then dynamics with flexible SPC (Wu, Tepper and Voth, J. Chem. Phys. 124, 024503, 2006),
its Coulomb sum damped and cut: seven states of density and temperature, ten snapshots each, 1 ps apart. Bonds of SPC/Fw
in the liquid are longer than those of PBE: of most snapshots the frames have bonds shortened to the length of PBE's.
"""

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.io import write
from ase.md import Langevin
from scipy.spatial.transform import Rotation
from scipy.special import erfc

KCAL = units.kcal / units.mol
#: Bond and angle: force constants, equilibrium values.
BOND, LENGTH = 1059.162 * KCAL, 1.012
BEND, ANGLE = 75.90 * KCAL, np.deg2rad(113.24)
#: Charge of oxygen, e; Lennard-Jones of oxygens, Å and eV.
OXYGEN, SIGMA, EPSILON = -0.82, 3.165492, 0.1554253 * KCAL
#: 1/Å, damping of the Coulomb sum, cut at half the box.
DAMPING = 0.25
COULOMB = units.Hartree * units.Bohr
MOLECULES = 32
#: (g/cm³, K).
STATES = ((0.85, 450), (0.92, 350), (0.96, 300), (1.0, 400), (1.0, 600), (1.05, 330), (1.12, 500))
#: u; the same structures occur at every mass, and heavier hydrogen takes longer steps.
HYDROGEN = 4.0
#: Which of a state's snapshots become frames as they are, and which with bonds shortened by the factor.
AS_THEY_ARE, SHORTENED, FACTOR = (0, 1), (1, 3, 5, 7, 8, 9), 0.963
#: And those for a second stage.
MORE = (0, 2, 4, 6)
#: State and snapshot that dynamics of a student begins with.
DRIVEN = ((0, 0), (2, 3), (4, 6), (6, 9))


class FlexibleWater(Calculator):
    """SPC/Fw in a cubic box; atoms in the order O, H, H of each molecule, molecules whole."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (as ASE has it)

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        """Energy and forces."""
        super().calculate(atoms, properties, system_changes)
        inside, forces = self._molecules()
        between, more = self._pairs()
        self.results = {"energy": inside + between, "forces": forces + more}

    def _molecules(self):
        positions, box = self.atoms.positions, self.atoms.cell.lengths()
        first, second = (positions[k::3] - positions[0::3] for k in (1, 2))
        first, second = first - box * np.round(first / box), second - box * np.round(second / box)
        a, b = np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1)
        cosine = (first * second).sum(1) / a / b
        angle = np.arccos(np.clip(cosine, -1, 1))
        energy = 0.5 * BOND * ((a - LENGTH) ** 2 + (b - LENGTH) ** 2).sum() + 0.5 * BEND * ((angle - ANGLE) ** 2).sum()
        bend = (BEND * (angle - ANGLE) / np.sqrt(np.maximum(1 - cosine**2, 1e-12)))[:, None]
        on_first = -(BOND * (a - LENGTH) / a)[:, None] * first
        on_second = -(BOND * (b - LENGTH) / b)[:, None] * second
        on_first += bend * (second / (a * b)[:, None] - cosine[:, None] * first / (a**2)[:, None])
        on_second += bend * (first / (a * b)[:, None] - cosine[:, None] * second / (b**2)[:, None])
        forces = np.zeros_like(positions)
        forces[0::3], forces[1::3], forces[2::3] = -on_first - on_second, on_first, on_second
        return energy, forces

    def _pairs(self):
        positions, box = self.atoms.positions, self.atoms.cell.lengths()
        number = np.arange(len(positions))
        apart = positions[:, None] - positions[None]
        apart -= box * np.round(apart / box)
        distance, cutoff = np.linalg.norm(apart, axis=-1), box.min() / 2
        counted = (number[:, None] // 3 != number[None] // 3) & (distance < cutoff)
        distance = np.where(counted, distance, 1.0)
        charges = np.where(number % 3 == 0, OXYGEN, -OXYGEN / 2)
        products = COULOMB * charges[:, None] * charges[None]
        energy = products * (_screened(distance) - _screened(cutoff) + _slope(cutoff) * (distance - cutoff))
        push = products * (_slope(distance) - _slope(cutoff))
        sixth = (SIGMA / distance) ** 6
        oxygens = (number[:, None] % 3 == 0) & (number[None] % 3 == 0)
        energy += np.where(oxygens, 4 * EPSILON * (sixth**2 - sixth), 0)
        push += np.where(oxygens, 24 * EPSILON * (2 * sixth**2 - sixth) / distance, 0)
        energy, push = np.where(counted, energy, 0), np.where(counted, push, 0)
        return 0.5 * energy.sum(), ((push / distance)[..., None] * apart).sum(1)


def _screened(distance):
    return erfc(DAMPING * distance) / distance


def _slope(distance):
    """Minus the derivative of `_screened`."""
    gauss = 2 * DAMPING / np.sqrt(np.pi) * np.exp(-((DAMPING * distance) ** 2))
    return erfc(DAMPING * distance) / distance**2 + gauss / distance


def packed(density: float, random: np.random.Generator) -> Atoms:
    """Molecules on sites of a cubic lattice, each turned at random."""
    edge = (MOLECULES * 18.01528 / density / 0.602214) ** (1 / 3)
    half = ANGLE / 2
    water = np.array(
        [
            (0, 0, 0),
            (0, LENGTH * np.cos(half), LENGTH * np.sin(half)),
            (0, LENGTH * np.cos(half), -LENGTH * np.sin(half)),
        ]
    )
    count = int(np.ceil(MOLECULES ** (1 / 3)))
    sites = np.array([(i, j, k) for i in range(count) for j in range(count) for k in range(count)])
    atoms = Atoms(cell=[edge] * 3, pbc=True)
    for site in sites[random.permutation(len(sites))[:MOLECULES]]:
        turn = Rotation.random(random_state=int(random.integers(2**31))).as_matrix()
        atoms += Atoms("OH2", water @ turn.T + (site + 0.5) * edge / count)
    return atoms


def snapshots(density: float, temperature: float, random: np.random.Generator) -> list[Atoms]:
    """Ten of one state."""
    atoms = packed(density, random)
    atoms.calc = FlexibleWater()
    masses = atoms.get_masses()
    masses[masses < 2] = HYDROGEN
    atoms.set_masses(masses)
    stages = ((0.2, 0.2, 100, 300), (0.5, 0.1, temperature, 500), (2.0, 0.02, temperature, 4000))
    found = []
    for timestep, friction, kelvin, steps in (*stages, *[(2.0, 0.02, temperature, 500)] * 10):
        options = {"temperature_K": kelvin, "friction": friction / units.fs, "rng": random, "fixcm": False}
        Langevin(atoms, timestep * units.fs, **options).run(steps)
        found.append(Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True))
    return found[len(stages) :]


def shortened(atoms: Atoms) -> Atoms:
    """A copy whose hydrogens are nearer to their oxygens."""
    new = atoms.copy()
    molecules = new.positions.reshape(-1, 3, 3)
    molecules[:, 1:] = molecules[:, :1] + FACTOR * (molecules[:, 1:] - molecules[:, :1])
    new.positions = molecules.reshape(-1, 3)
    return new


def main() -> None:
    """Simulate and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path, help="extended XYZ to write")
    parser.add_argument("--more", action="store_true", help="the frames of the second stage")
    parser.add_argument("--driven", action="store_true", help="starts for dynamics of a student, as they are")
    args = parser.parse_args()
    states = [snapshots(*state, np.random.default_rng(100 + number)) for number, state in enumerate(STATES)]
    frames = [] if args.more else [state[number] for number in AS_THEY_ARE for state in states]
    frames += [shortened(state[number]) for number in (MORE if args.more else SHORTENED) for state in states]
    if args.driven:
        frames = [states[place][number] for place, number in DRIVEN]
    args.target.parent.mkdir(parents=True, exist_ok=True)
    write(args.target, frames)


if __name__ == "__main__":
    main()
