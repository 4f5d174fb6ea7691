"""Sums of three-dimensional periodic structures: direct, on a static grid for compilers, and on a mesh."""
