"""SevenNet adapter. `plugin.py` names what it does; the other files import SevenNet, when asked for."""
