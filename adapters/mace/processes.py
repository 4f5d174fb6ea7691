"""MACE's `--distributed`: what it lacks on CPUs, and starters that do not fit its option `launcher`.

MACE begins a group of processes on GPUs only, and hands the number of a GPU to DistributedDataParallel. On CPUs the two
names of `mace.cli.run_train` are substituted while it runs; on GPUs nothing is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mace.cli import run_train
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from les_plugins.errors import ConfigError
from les_plugins.hosting.substitution import substituted

#: Environment variables that each launcher of MACE reads, and what sets them.
_VARIABLES = {
    "torchrun": (("RANK", "LOCAL_RANK", "WORLD_SIZE"), "torchrun"),
    "mpi": (("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "MASTER_ADDR"), "mpirun of Open MPI with MASTER_ADDR set"),
}


def check_launcher(args: Any) -> None:
    """Compare MACE's option `launcher` with what started this process.

    Args:
        args: MACE's options.

    Raises:
        ConfigError: another program started it, or none did.
    """
    if not args.distributed:
        return
    launcher = args.launcher
    if launcher == "none":
        raise ConfigError("launcher is 'none' with distributed; allowed: slurm, torchrun, mpi")
    if launcher == "slurm" and "SLURM_JOB_NODELIST" in os.environ and "TORCHELASTIC_RUN_ID" in os.environ:
        raise ConfigError(
            "launcher is 'slurm', and torchrun started this process, which gives it another rank: "
            "add --launcher torchrun, or start the command with srun alone"
        )
    variables, program = _VARIABLES.get(launcher, ((), ""))
    if launcher == "slurm" and "SLURM_JOB_NODELIST" in os.environ:  # MACE reads both whether it needs them or not
        variables, program = ("SLURM_NNODES", "SLURM_NTASKS_PER_NODE"), "srun in a job with --ntasks-per-node"
    missing = [name for name in variables if name not in os.environ]
    if missing:
        raise ConfigError(
            f"launcher is {launcher!r}, and {missing[0]} is not in the environment: start the command with {program}"
        )


@contextmanager
def several_processes(args: Any) -> Iterator[None]:
    """While open, MACE's `run` trains on several processes of CPUs, joined by gloo, where its options ask for it."""
    if not args.distributed or torch.device(args.device).type != "cpu":
        yield
        return
    initialize = run_train.init_distributed

    def init_distributed(options: Any) -> tuple[int, int, int]:
        ranks: tuple[int, int, int] = initialize(options)  # sets the variables that the group reads
        if not distributed.is_initialized():
            distributed.init_process_group("gloo")
        return ranks

    def on_cpu(model: nn.Module, device_ids: Any = None) -> DistributedDataParallel:
        return DistributedDataParallel(model)

    there = distributed.is_initialized()
    with substituted(run_train, "init_distributed", init_distributed), substituted(run_train, "DDP", on_cpu):
        try:
            yield
        finally:  # MACE ends it after a training, not after a dry run or a failure
            if not there and distributed.is_initialized():
                distributed.destroy_process_group()
