"""Spectra, transport and structure from trajectories, every estimate with an error bar."""
