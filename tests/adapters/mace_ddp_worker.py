"""One process of a distributed training with MACE on a CPU: `python mace_ddp_worker.py train mace --config FILE …`.

What MACE's --distributed lacks on CPUs is put in before: a process group (gloo), and DDP without a GPU's number.
"""

import sys
from typing import Any

import mace.cli.run_train
import torch
from torch.nn.parallel import DistributedDataParallel

from les_plugins.cli import main


def without_device(model: torch.nn.Module, device_ids: Any = None) -> torch.nn.Module:
    return DistributedDataParallel(model)


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    mace.cli.run_train.DDP = without_device
    sys.argv = ["les-plugins", *sys.argv[1:]]
    main()
