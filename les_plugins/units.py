"""Constants in the units used everywhere: Å, eV, e (PHYSICS 1). No conversion happens anywhere else."""

import math

#: 1 / (2 ε0) in eV·Å/e²: the prefactor of the reciprocal-space sum.
RECIPROCAL_PREFACTOR = 90.4756
#: Coulomb constant 1 / (4π ε0) in eV·Å/e².
COULOMB_CONSTANT = RECIPROCAL_PREFACTOR / (2.0 * math.pi)
#: Vacuum permittivity in e²/(eV·Å).
VACUUM_PERMITTIVITY = 1.0 / (2.0 * RECIPROCAL_PREFACTOR)
#: Speed of light in cm/fs: cm⁻¹ times it is a frequency in 1/fs.
SPEED_OF_LIGHT = 2.99792458e-5
#: Boltzmann constant in eV/K.
BOLTZMANN = 8.617333262e-5
