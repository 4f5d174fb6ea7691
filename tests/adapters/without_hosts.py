"""Evaluates a TorchScript model with nothing but torch, les-plugins and MACE being out of reach: MODEL TENSORS OUT."""

from __future__ import annotations

import importlib.abc
import sys
from typing import Any

import torch
from safetensors.torch import load_file, save_file


class _Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] in ("les_plugins", "mace", "e3nn"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def main() -> None:
    sys.meta_path.insert(0, _Missing())
    model = torch.jit.load(sys.argv[1])
    output = model(load_file(sys.argv[2]), compute_stress=True, compute_born_charges=True)
    save_file({key: value.detach().contiguous() for key, value in output.items() if value is not None}, sys.argv[3])


if __name__ == "__main__":
    main()
