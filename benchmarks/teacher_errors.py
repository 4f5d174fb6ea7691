"""What a teacher of `les-plugins distill` misses itself, against the labels of files.

    python benchmarks/teacher_errors.py sevennet:7net-0 FILE…

Run in the environment of the teacher's host. Prints RMSE of energy per atom, forces and stress.
"""

import argparse
from pathlib import Path

import torch

from les_plugins.data.evaluation import evaluate
from les_plugins.data.frames import read_frames
from les_plugins.distillation.teachers import open_teacher


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teacher")
    parser.add_argument("files", type=Path, nargs="+")
    args = parser.parse_args()
    torch.set_num_threads(1)
    teacher = open_teacher(args.teacher)
    for path in args.files:
        for name, table in evaluate(teacher.calculator, read_frames(path), path.name).metrics().items():
            print(f"{path.name}: {name}: {1000 * table['all']['rmse']:.2f} m{table['unit']}")


if __name__ == "__main__":
    main()
