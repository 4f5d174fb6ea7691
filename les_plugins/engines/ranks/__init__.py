"""LAMMPS on many MPI ranks: every rank evaluates the model on its own atoms and exchanges what belongs to ghosts."""
