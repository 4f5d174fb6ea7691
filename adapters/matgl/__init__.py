"""MatGL adapter. `plugin.py` names what it does; the other files import MatGL and are imported by it when asked."""
