"""The training file that comparisons of MACE share: everything but the network, the frames and the long-range part."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def training(
    files: tuple[str, str], data: Path, folder: Path, epochs: int, seed: int, network: dict[str, Any]
) -> dict[str, Any]:
    """Settings of MACE on one thread of a CPU; the rate falls to a hundredth.

    Args:
        files: of training and validation, below `data`.
        data: folder of model_zoo/recipes/data.json.
        folder: that the training works in.
        epochs: of the training frames.
        seed: of weights and order.
        network: what differs, the section `long_range` too; goes over the rest.
    """
    train, valid = files
    return {
        "name": "model",
        "model": "ScaleShiftMACE",
        "correlation": 2,
        "E0s": "average",
        "energy_key": "energy",
        "forces_key": "forces",
        "energy_weight": 10.0,
        "forces_weight": 100.0,
        "batch_size": 1,
        "valid_batch_size": 2,
        "max_num_epochs": epochs,
        "lr": 0.01,
        "scheduler": "ExponentialLR",
        "lr_scheduler_gamma": 0.01 ** (1.0 / epochs),
        "ema": True,
        "default_dtype": "float32",
        "device": "cpu",
        "seed": seed,
        "error_table": "PerAtomRMSE",
        "pin_memory": False,
        "plot": False,
        "restart_latest": True,
        "train_file": str(data / train),
        "valid_file": str(data / valid),
        "work_dir": str(folder),
        **network,
    }
