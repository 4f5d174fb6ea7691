"""Checkpoints, the model zoo, and what a checkpoint may ask for."""
