"""Sums over the processes of a group."""
