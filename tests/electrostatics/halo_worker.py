"""What each process of test_halo.py runs: exchanges of a halo whose owners are known."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from les_plugins.electrostatics.parallel.halo import Halo
from les_plugins.electrostatics.parallel.reduction import Ranks
from les_plugins.errors import LesPluginsError

#: Ids of own atoms and of ghosts on each of three ranks; the last has no atom, and images of one atom are two ghosts.
OWN = ([7, 2, 30], [11, 4], [])
GHOSTS = ([4, 7, 7], [30, 2, 2, 11], [2, 4])


def values_of(ids: list[int]) -> torch.Tensor:
    """(N, 2), told apart by id."""
    return torch.tensor([[float(i), 0.5 * i * i] for i in ids], dtype=torch.float64).reshape(-1, 2)


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), 3)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=3, timeout=timedelta(seconds=240))
    ranks = Ranks(dist.group.WORLD)
    ids = [torch.tensor(found[rank], dtype=torch.long) for found in (OWN, GHOSTS)]
    halo = Halo(ids[0], ids[1], ranks)
    own = values_of(OWN[rank]).requires_grad_()
    everywhere = halo.with_ghosts(own)
    # a loss of every rank in what its ghosts have, and one in its gradient
    (gradient,) = torch.autograd.grad(everywhere.pow(3).sum(), own, create_graph=True)
    (second,) = torch.autograd.grad(gradient.pow(2).sum(), own)
    out, back = torch.empty_like(everywhere), torch.empty_like(everywhere)
    halo.forward_exchange(torch.cat([own.detach(), torch.zeros(halo.ghosts, 2).double()]), out, 2)
    halo.reverse_exchange(torch.ones_like(out), back, 2)
    refused = "nothing"
    try:
        Halo(ids[0], torch.tensor([5] if rank == 1 else [], dtype=torch.long), ranks)
    except LesPluginsError as error:
        refused = str(error)
    found = {"everywhere": everywhere, "gradient": gradient, "second": second, "forward": out, "reverse": back}
    saved = {name: value.detach() for name, value in found.items()}
    torch.save({**saved, "here": halo.here(everywhere.detach()), "refused": refused}, Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
