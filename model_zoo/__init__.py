"""Pretrained models: one folder each, read by `les_plugins.storage.zoo`; no code of theirs is run."""
