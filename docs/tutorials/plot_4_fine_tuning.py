"""
4 Fine-tune a foundation model
==============================

You have a pretrained short-range MACE and a few frames of your own. You get a model that starts exactly at the
pretrained one and learns the long-range part on top of it.

Foundation models are large files from the internet, and this tutorial runs without network. The short-range model of
:doc:`plot_1_training` takes their place: ``short.model``, a file of MACE's own. For real work put there the path of a
foundation model, such as ``mace-mpa-0-medium.model``, or one of MACE's names, such as ``medium``.
"""

import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import ase.io
import matplotlib.pyplot as plt
import numpy as np
import yaml

import les_plugins
from les_plugins.api import load_model

tutorials = Path(tempfile.gettempdir()) / "les-plugins-tutorials"  # where the first tutorial left its files
work = tutorials / "fine-tuning"
shutil.rmtree(work, ignore_errors=True)
work.mkdir()
shutil.copy(tutorials / "short.model", work / "foundation.model")
shutil.copytree(tutorials / "data", work / "data")


def run(command, last_lines):
    """Run a command in the folder `work` and print it with the end of its output."""
    done = subprocess.run(shlex.split(command), cwd=work, capture_output=True, text=True)
    print(f"$ {command}", *done.stdout.splitlines()[-last_lines:], sep="\n")
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])


# %%
# Few frames
# ----------
#
# We keep 20 of the 80 training frames.

frames = ase.io.read(work / "data" / "train.xyz", ":20")
ase.io.write(work / "few.xyz", frames, format="extxyz")

# %%
# The config
# ----------
#
# - ``foundation_model`` is the file. MACE takes sizes and cutoff from it.
# - ``long_range: {zero_init: true}`` multiplies the long-range energy by a coupling that is zero at the start. The
#   first predictions are then those of the foundation model, and the training decides how fast the long-range part
#   grows.
# - ``multiheads_finetuning: false`` trains one head. MACE's replay of pretraining data needs those data.

config = {
    "name": "tuned",
    "foundation_model": "foundation.model",
    "multiheads_finetuning": False,
    "train_file": "few.xyz",
    "valid_file": "data/valid.xyz",
    "energy_key": "REF_energy",
    "forces_key": "REF_forces",
    "E0s": "{11: 0.0, 17: 0.0}",
    "energy_weight": 10.0,
    "forces_weight": 100.0,
    "batch_size": 4,
    "max_num_epochs": 16,
    "eval_interval": 4,
    "lr": 0.01,
    "scheduler": "ExponentialLR",
    "lr_scheduler_gamma": 0.85,
    "ema": True,
    "ema_decay": 0.98,
    "default_dtype": "float32",
    "seed": 1,
    "plot": False,
    "long_range": {"multipoles": ["charge", "dipole"], "zero_init": True},
}
(work / "tuned.yaml").write_text(yaml.safe_dump(config))
run("les-plugins train mace --config tuned.yaml", last_lines=9)

# %%
# What to check
# -------------
#
# Compare three models on the test frames: the foundation model, the fine-tuned one, and a fine-tuning without the
# section. The last one says how much of the gain is due to the long-range part and how much to the new data alone.

plain = {key: value for key, value in config.items() if key != "long_range"} | {"name": "plain"}
(work / "plain.yaml").write_text(yaml.safe_dump(plain))
run("les-plugins train mace --config plain.yaml", last_lines=1)

test = ase.io.read(work / "data" / "test.xyz", ":")
reference = np.concatenate([atoms.arrays["REF_forces"].ravel() for atoms in test])


def force_error(checkpoint):
    """RMSE of the forces on the test frames, meV/Å."""
    calculator = les_plugins.load(checkpoint)
    forces = np.concatenate([calculator.get_property("forces", atoms).ravel() for atoms in test])
    return 1000 * np.sqrt(np.mean((forces - reference) ** 2))


errors = {
    "foundation model": force_error(tutorials / "short.les"),
    "fine-tuned, without\nlong_range:": force_error(work / "plain.les"),
    "fine-tuned, with\nlong_range:": force_error(work / "tuned.les"),
}
for name, error in errors.items():
    print(f"{name.replace(chr(10), ' '):32s} {error:6.1f} meV/Å")

# %%
# The coupling
# ------------
#
# The coupling shows that the long-range part was switched on. If it stays near zero, the data do not ask for one, or
# the learning rate is too small.

model, facts = load_model(work / "tuned.les")
print(f"coupling: 0 at the start, {model.long_range.coupling.item():.3f} after the training")

# %%
# The picture
# -----------

figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
bars = axes.bar(list(errors), list(errors.values()), color=["tab:gray", "tab:orange", "tab:blue"], width=0.6)
axes.bar_label(bars, fmt="%.0f")
axes.set(ylabel="RMSE of forces (meV/Å)", ylim=(0, 1.12 * max(errors.values())))
axes.set_title("MACE 8x0e + 8x1o, 20 training frames of 6 ions, 40 test frames", fontsize="medium")

# %%
# A checkpoint of les-plugins, with a long-range part already, is fine-tuned with ``start_from: water-mace`` (a model of
# the zoo) or ``start_from: path/to/model.les`` in the place of ``foundation_model``: see :doc:`/how-to/fine-tune`.
