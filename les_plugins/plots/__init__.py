"""Figures of evaluations, spectra and charge maps."""
