"""The long-range part of TinySchNet: `plugin.py` is found, `adapter.py` does the work, `contract.py` tests it."""
