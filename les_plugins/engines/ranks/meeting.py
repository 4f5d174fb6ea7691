"""A process group of torch beside LAMMPS' MPI, with the same ranks; no MPI for Python is needed."""

from __future__ import annotations

import os
import socket
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist
from torch.distributed import distributed_c10d

from les_plugins.electrostatics.parallel.reduction import Ranks
from les_plugins.errors import ConfigError

#: s, after which a rank that does not come is given up.
PATIENCE = 1800.0
#: What MPI libraries say of the number of ranks on this machine.
_ON_THIS_MACHINE = ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_NTASKS_PER_NODE")
_TCP_STORE: Any = dist.TCPStore  # type: ignore[attr-defined]
_VARIABLE = "les_plugins_meeting"


class Meeting(NamedTuple):
    """The ranks of a LAMMPS instance as torch knows them.

    Attributes:
        ranks: for sums and exchanges.
        rank: this one.
        size: how many.
        store: keys and values that all ranks share.
    """

    ranks: Ranks
    rank: int
    size: int
    store: Any


def meet(lmp: Any) -> Meeting:
    """Make the process group (gloo) of all ranks of a LAMMPS instance; called by all of them.

    Rank 0 opens a port and LAMMPS itself tells the others, by a variable that it reads from a file on rank 0 alone.

    Raises:
        ConfigError: partitions of LAMMPS (`-partition`), of which each would need a group of its own.
    """
    rank, size = lmp.extract_setting("world_rank"), lmp.extract_setting("world_size")
    if lmp.extract_setting("universe_size") != size:
        raise ConfigError("LAMMPS: -partition divides the ranks; allowed: all ranks in one simulation")
    if dist.is_initialized():
        return Meeting(Ranks(_world()), rank, size, distributed_c10d._get_default_store())
    limit = timedelta(seconds=PATIENCE)
    with tempfile.TemporaryDirectory() as folder:
        file, store = Path(folder) / "meeting", None
        if rank == 0:
            host = _address(size)
            store = _TCP_STORE(host, 0, size, is_master=True, timeout=limit, wait_for_workers=False)
            file.write_text(f"{host}:{store.port}\n", encoding="utf-8")
        lmp.command(f"variable {_VARIABLE} file {file}")
        host, _, port = str(lmp.extract_variable(_VARIABLE)).rpartition(":")
        lmp.command(f"variable {_VARIABLE} delete")
    if store is None:
        store = _TCP_STORE(host, int(port), size, is_master=False, timeout=limit, wait_for_workers=False)
    shared = distributed_c10d.PrefixStore("les", store)
    dist.init_process_group("gloo", store=shared, rank=rank, world_size=size, timeout=limit)
    return Meeting(Ranks(_world()), rank, size, store)


def _world() -> Any:
    return dist.group.WORLD


def part(meeting: Meeting, lmp: Any) -> None:
    """Leave the group, close LAMMPS and MPI; called by all ranks, which wait for each other. The process ends then.

    `mpirun` ends the ranks that are still at work when one exits without having closed MPI.
    """
    dist.barrier(group=meeting.ranks.group)
    dist.destroy_process_group()
    lmp.close()
    lmp.finalize()


def _address(size: int) -> str:
    """Where others find this rank: MASTER_ADDR, this machine alone where all ranks are on it, or its name."""
    if given := os.environ.get("MASTER_ADDR"):
        return given
    if size == 1 or any(os.environ.get(name) == str(size) for name in _ON_THIS_MACHINE):
        return "127.0.0.1"
    return socket.gethostname()
