"""`python -m les_plugins`."""

from les_plugins.cli import main

main()
