"""Molecular dynamics on ASE with currents, dipoles and fields; trajectories in HDF5. `les-plugins md` calls this."""

from les_plugins.dynamics.field import Field, FieldFunction
from les_plugins.dynamics.run import Outcome, run
from les_plugins.dynamics.settings import Settings
from les_plugins.dynamics.trajectory import Trajectory

__all__ = ["Field", "FieldFunction", "Outcome", "Settings", "Trajectory", "run"]
