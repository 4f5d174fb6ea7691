"""SevenNet adapter. `plugin.py` implements the hooks; the other files import SevenNet, when asked for."""
