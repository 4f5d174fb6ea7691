"""Bytes that each process of a group hands over for one step of a box of water.

python benchmarks/process_bytes.py
"""

from __future__ import annotations

import argparse

import torch

from les_plugins.electrostatics.processes import bytes_per_step

EDGE = 12.42  # Å, 192 atoms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[192, 1536, 5184, 98304])
    parser.add_argument("--dl", type=float, nargs="+", default=[1.2, 2.0])
    arguments = parser.parse_args()
    print("| atoms | edge, Å | dl, Å | energy, kB | and forces, kB | with response, kB |")
    print("|---:|---:|---:|---:|---:|---:|")
    for n_atoms in arguments.sizes:
        edge = EDGE * (n_atoms / 192) ** (1 / 3)
        cell = edge * torch.eye(3, dtype=torch.float64)[None]
        for dl in arguments.dl:
            energy, forces, response = (
                bytes_per_step(cell, dl, response, forces) / 1e3
                for response, forces in ((False, False), (False, True), (True, True))
            )
            print(f"| {n_atoms:,} | {edge:.1f} | {dl} | {energy:,.1f} | {forces:,.1f} | {response:,.1f} |")


if __name__ == "__main__":
    main()
