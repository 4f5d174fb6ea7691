"""CHGNet adapter. `plugin.py` names what it does; the other files import CHGNet, when asked for."""
