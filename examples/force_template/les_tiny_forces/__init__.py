"""The long-range part of TinyForces: `plugin.py` is found, `adapter.py` does the work, `contract.py` tests it."""
