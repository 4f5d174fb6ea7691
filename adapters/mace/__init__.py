"""MACE adapter. `plugin.py` implements the hooks; the other files import MACE and are imported by it when asked for."""
