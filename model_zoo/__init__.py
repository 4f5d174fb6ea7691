"""Pretrained models: one folder each, read by `les_plugins.zoo`; no code of theirs is run."""
