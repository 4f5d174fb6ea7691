"""MatGL adapter. `plugin.py` implements the hooks; the other files import MatGL and are imported by it when asked."""
