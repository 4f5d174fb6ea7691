"""Constants of units.py against CODATA 2018 as printed, and against each other."""

import math

import pytest

from les_plugins import units


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SPEED_OF_LIGHT", 2.99792458e-5),
        ("BOLTZMANN", 8.617333262e-5),
        ("WAVENUMBER_ENERGY", 1.239841984e-4),
        ("BOHR", 0.529177210903),
        ("COULOMB_PER_SQUARE_METRE", 16.02176634),
        ("SIEMENS_PER_METRE", 1.602176634e6),
        ("EV_PER_VISCOSITY", 160.2176634),
    ],
)
def test_conversions_are_those_of_codata(name, value):
    assert getattr(units, name) == pytest.approx(value, rel=2e-9)


def test_a_mass_unit_is_as_heavy_as_ase_says():
    from ase import units as of_ase

    # ASE's time unit is Å sqrt(u/eV), of CODATA 2014
    assert pytest.approx(of_ase.fs**-2, rel=1e-7) == units.MASS_ENERGY


def test_the_prefactor_of_trained_models_keeps_its_digits_and_is_codatas_to_them():
    assert units.RECIPROCAL_PREFACTOR == 90.4756
    assert pytest.approx(2.0 * math.pi * 14.3996454784, rel=5e-7) == units.RECIPROCAL_PREFACTOR
    product = 4.0 * math.pi * units.VACUUM_PERMITTIVITY * units.COULOMB_CONSTANT
    assert product == pytest.approx(1.0, rel=1e-14)
