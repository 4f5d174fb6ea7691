"""metatrain adapter. `plugin.py` names what it does; the other files import metatrain and are imported when asked."""
