"""Molecular dynamics on ASE with currents, dipoles and fields; trajectories in HDF5. `les-plugins md` calls this."""

from les_plugins.data.trajectory import Trajectory
from les_plugins.dynamics.field import Field, FieldFunction
from les_plugins.dynamics.run import Outcome, run
from les_plugins.dynamics.settings import Settings

__all__ = ["Field", "FieldFunction", "Outcome", "Settings", "Trajectory", "run"]
