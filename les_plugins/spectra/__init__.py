"""Spectra, transport and structure from trajectories of `les-plugins md`, every estimate with an error bar."""

from les_plugins.spectra.dielectric import dipole_from_current, static_dielectric_constant
from les_plugins.spectra.estimate import Spectrum, Welch, check_temperature, power_spectrum
from les_plugins.spectra.interface import Interface, Profile, interface
from les_plugins.spectra.models import by_model, over_models
from les_plugins.spectra.optical import (
    conductivity_spectrum,
    dielectric_loss,
    directed,
    green_kubo,
    infrared,
    ohmic_conductivity,
)
from les_plugins.spectra.planar import Moments, moments_of, potential_of_layers
from les_plugins.spectra.samples import Samples
from les_plugins.spectra.scattering import Raman, check_anisotropic, raman
from les_plugins.spectra.structure import diffusion, energy_drift, radial_distribution
from les_plugins.spectra.vibrations import velocity_spectrum

__all__ = [
    "Interface",
    "Moments",
    "Profile",
    "Raman",
    "Samples",
    "Spectrum",
    "Welch",
    "by_model",
    "check_anisotropic",
    "check_temperature",
    "conductivity_spectrum",
    "dielectric_loss",
    "diffusion",
    "dipole_from_current",
    "directed",
    "energy_drift",
    "green_kubo",
    "infrared",
    "interface",
    "moments_of",
    "ohmic_conductivity",
    "over_models",
    "potential_of_layers",
    "power_spectrum",
    "radial_distribution",
    "raman",
    "static_dielectric_constant",
    "velocity_spectrum",
]
