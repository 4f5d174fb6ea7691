"""Structures and their labels, and the errors of predictions; takes any ASE calculator, knows no host."""
