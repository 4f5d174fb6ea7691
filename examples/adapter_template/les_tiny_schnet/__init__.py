"""The long-range part of TinySchNet: `adapter.py` for users, `contract.py` for tests."""
