"""Constants and conversions in the units used everywhere: Å, eV, e, fs, K (theory 1). No number of them is elsewhere.

From SciPy's table of CODATA's values, but for ε0, whose digits belong to the definition of the model.
"""

import math

from scipy import constants

#: 1 / (2 ε0) in eV·Å/e²: the prefactor of the reciprocal-space sum. Trained models contain it as rounded here, 5e-7 of
#: it below CODATA's 90.475641, and every other constant with ε0 is made of it (docs/decisions).
RECIPROCAL_PREFACTOR = 90.4756
#: Coulomb constant 1 / (4π ε0) in eV·Å/e².
COULOMB_CONSTANT = RECIPROCAL_PREFACTOR / (2.0 * math.pi)
#: Vacuum permittivity in e²/(eV·Å).
VACUUM_PERMITTIVITY = 1.0 / (2.0 * RECIPROCAL_PREFACTOR)

#: Speed of light in cm/fs: cm⁻¹ times it is a frequency in 1/fs.
SPEED_OF_LIGHT: float = constants.c * constants.femto / constants.centi
#: Boltzmann constant in eV/K.
BOLTZMANN: float = constants.k / constants.e
#: h c in eV·cm: the energy of 1 cm⁻¹.
WAVENUMBER_ENERGY: float = constants.h * constants.c / constants.centi / constants.e
#: u·Å²/fs² in eV.
MASS_ENERGY: float = constants.atomic_mass * (constants.angstrom / constants.femto) ** 2 / constants.e
#: Bohr radius in Å.
BOHR: float = constants.physical_constants["Bohr radius"][0] / constants.angstrom
#: e/Å² in C/m².
COULOMB_PER_SQUARE_METRE: float = constants.e / constants.angstrom**2
#: e²/(Å·eV·fs) in S/m.
SIEMENS_PER_METRE: float = constants.e / (constants.angstrom * constants.femto)
#: eV/(mPa·s·Å) in Å²/ps.
EV_PER_VISCOSITY: float = constants.e / (constants.milli * constants.angstrom) * constants.pico / constants.angstrom**2
