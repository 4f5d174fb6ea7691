"""Train a MACE with a long-range part from Python: MACE's own loaders, loss and trainer, and one line of ours.

    python examples/mace_from_python.py TRAIN.extxyz VALID.extxyz OUT [--epochs 20]

Nothing of MACE is substituted here: `les_plugins.attach` returns a model that MACE's trainer takes as its own.
"""

import argparse
from pathlib import Path

import mace  # noqa: F401 (before e3nn)
import numpy as np
import torch
from e3nn import o3
from mace import data, modules, tools
from mace.tools import torch_geometric
from mace.tools.scripts_utils import LRScheduler, get_optimizer, get_params_options

import les_plugins

LONG_RANGE = {"response": {"charge": True, "dipole": "isotropic"}, "epsilon_infinity": 1.78}


def main() -> None:
    """Read, build, attach, train, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("valid", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--cutoff", type=float, default=4.5)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32)

    keys = data.KeySpecification(info_keys={"energy": "REF_energy"}, arrays_keys={"forces": "REF_forces"})
    frames = {name: read(getattr(options, name)) for name in ("train", "valid")}
    table = tools.get_atomic_number_table_from_zs(z for atoms in frames["train"] for z in atoms.numbers)
    configs = {name: [data.config_from_atoms(atoms, key_specification=keys) for atoms in found]
               for name, found in frames.items()}  # fmt: skip
    energies = data.compute_average_E0s(configs["train"], table)
    loaders = {}
    for name, batch_size in (("train", 1), ("valid", 2)):
        items = [data.AtomicData.from_config(config, z_table=table, cutoff=options.cutoff) for config in configs[name]]
        loaders[name] = torch_geometric.dataloader.DataLoader(
            items, batch_size=batch_size, shuffle=name == "train", drop_last=False
        )

    interaction = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    base = modules.ScaleShiftMACE(
        r_max=options.cutoff, num_bessel=8, num_polynomial_cutoff=5, max_ell=3, correlation=2,
        interaction_cls=interaction, interaction_cls_first=interaction, num_interactions=2,
        hidden_irreps=o3.Irreps(f"{options.channels}x0e + {options.channels}x1o"), MLP_irreps=o3.Irreps("16x0e"),
        gate=torch.nn.functional.silu, num_elements=len(table), atomic_numbers=table.zs,
        atomic_energies=np.array([energies[z] for z in table.zs]),
        avg_num_neighbors=modules.compute_avg_num_neighbors(loaders["train"]),
        atomic_inter_scale=1.0, atomic_inter_shift=0.0,
    )  # fmt: skip
    model = les_plugins.attach(base, LONG_RANGE)

    mace_options = tools.build_default_arg_parser().parse_args(["--name", "example", "--lr", "0.01"])
    optimizer = get_optimizer(mace_options, get_params_options(mace_options, model))
    work = options.out.with_suffix(".work")
    tools.train(
        model=model,
        loss_fn=modules.WeightedEnergyForcesLoss(energy_weight=10.0, forces_weight=100.0),
        train_loader=loaders["train"],
        valid_loaders={"Default": loaders["valid"]},
        optimizer=optimizer,
        lr_scheduler=LRScheduler(optimizer, mace_options),
        start_epoch=0,
        max_num_epochs=options.epochs,
        patience=options.epochs,
        checkpoint_handler=tools.CheckpointHandler(directory=str(work), tag="example", keep=False),
        logger=tools.MetricsLogger(directory=str(work), tag="example"),
        eval_interval=1,
        output_args={"energy": True, "forces": True, "virials": False, "stress": False, "dipoles": False},
        device=torch.device("cpu"),
        log_errors="PerAtomRMSE",
    )
    les_plugins.save(model, options.out, host="mace", frames=frames["train"])


def read(path: Path) -> list:
    """Frames with their labels under the names that MACE's key specification above looks for."""
    from les_plugins.data.frames import read_frames

    frames = read_frames(path)
    for atoms in frames:
        atoms.info["REF_energy"] = atoms.get_potential_energy()
        atoms.arrays["REF_forces"] = atoms.get_forces()
    return frames


if __name__ == "__main__":
    main()
