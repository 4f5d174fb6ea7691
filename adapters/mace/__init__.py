"""MACE adapter. `plugin.py` names what it does; the other files import MACE and are imported by it when asked for."""
