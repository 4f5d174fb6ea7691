"""Induced charges and dipoles: in one shot, and mutually to self-consistency."""
