"""MACE's `--distributed` on CPUs: two processes make the step of one, and the first of them writes the checkpoint."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mace", reason="mace-torch is not installed: nox -s tests-mace")

import torch
import yaml
from two_processes import RESPONSE, SECTION, assert_same_gradients, assert_same_weights, write_frames

from les_plugins import api
from les_plugins.adapters.mace import contract
from les_plugins.adapters.mace.processes import check_launcher
from les_plugins.adapters.mace.response import among_ranks
from les_plugins.adapters.mace.train import parse_arguments
from les_plugins.errors import ConfigError
from les_plugins.hosting import registry
from les_plugins.model.response_loss import SquaredError

SETTINGS: dict[str, Any] = {
    **contract.SETTINGS,
    "train_file": "train.extxyz",
    "valid_file": "valid.extxyz",
    "valid_batch_size": 1,
    "ema": False,
    "max_num_epochs": 2,
    "save_all_checkpoints": True,
    # statistics of MACE are those of each process's own frames
    "scaling": "no_scaling",
    "compute_avg_num_neighbors": False,
    "avg_num_neighbors": 5.0,
    "long_range": SECTION,
    "response_loss": RESPONSE,
}
#: MACE's own program of torch, with a free port.
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(name: str, **changes: Any) -> str:
    Path(f"{name}.yaml").write_text(yaml.safe_dump({**SETTINGS, "name": name, **changes}), encoding="utf-8")
    return f"{name}.yaml"


def kept(name: str, epoch: int) -> Any:
    return torch.load(f"checkpoints/{name}_run-123_epoch-{epoch}.pt", weights_only=False)


@pytest.mark.training
def test_two_processes_make_the_steps_of_one_and_the_first_writes_the_checkpoint() -> None:
    write_frames()
    registry.host("mace").train(Path(written("one", batch_size=2)), (), {})
    command = ["-m", "les_plugins", "train", "mace", "--config", written("two", batch_size=1)]
    done = subprocess.run(
        [*TORCHRUN, *command, "--distributed", "--launcher", "torchrun"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    assert done.stderr.count("checkpoint: two.les") == 1
    assert done.stderr.count("no checkpoint was written by this process") == 1
    for epoch in (0, 1):  # a step each
        one, two = kept("one", epoch), kept("two", epoch)
        assert_same_gradients(one["optimizer"]["state"], two["optimizer"]["state"])
        assert_same_weights(one["model"], two["model"], 1e-9)
    model, config = api.load_model("two.les")
    assert config["metadata"]["training"]["host_options"]["distributed"] is True
    for name, value in model.state_dict().items():  # the sign may have been turned
        assert torch.equal(value.double().abs(), two["model"][name].double().abs()), name


def test_a_single_component_among_processes_counts_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dipole of one slab, say; the other seven of eight processes have no label and a loss of zero."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 8)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: None)
    error = SquaredError(torch.tensor(3.0), torch.tensor(1.0))
    assert float(among_ranks(error).mean) / 8 == 3.0


@pytest.mark.parametrize(
    ("launcher", "variables", "message"),
    [
        ("torchrun", {}, "launcher is 'torchrun', and RANK is not in the environment: start the command with torchrun"),
        ("mpi", {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, "MASTER_ADDR is not in the environment"),
        ("slurm", {"SLURM_JOB_NODELIST": "n1", "TORCHELASTIC_RUN_ID": "1"}, "add --launcher torchrun"),
        ("slurm", {"SLURM_JOB_NODELIST": "n1", "SLURM_NNODES": "1"}, "srun in a job with --ntasks-per-node"),
        ("none", {}, "launcher is 'none' with distributed"),
    ],
)
def test_a_launcher_that_did_not_start_the_process_is_an_error(
    monkeypatch: pytest.MonkeyPatch, launcher: str, variables: dict[str, str], message: str
) -> None:
    for name in list(os.environ):
        if name in ("RANK", "LOCAL_RANK", "WORLD_SIZE") or name.startswith(("MASTER_", "OMPI_", "SLURM_", "TORCHEL")):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    args = parse_arguments({"name": "a", "launcher": launcher, "distributed": True}, (), Path("a.yaml"))
    with pytest.raises(ConfigError, match=message):
        check_launcher(args)
    args.distributed = False
    check_launcher(args)
