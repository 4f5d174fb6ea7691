"""Engines that move atoms with a model's forces: drivers for them, not forks of them. Nothing is imported here."""
