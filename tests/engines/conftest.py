"""What tests of engines on ranks share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch.distributed as dist

from les_plugins.electrostatics.parallel.reduction import Ranks
from les_plugins.engines.ranks.meeting import Meeting


@pytest.fixture(scope="module")
def meeting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Meeting]:
    """Of one rank, this process."""
    store = dist.FileStore(str(tmp_path_factory.mktemp("meeting") / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield Meeting(Ranks(dist.group.WORLD), 0, 1, store)  # type: ignore[arg-type]
    dist.destroy_process_group()
