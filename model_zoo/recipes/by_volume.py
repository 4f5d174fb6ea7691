"""Repeat the frames of rare volumes: ``by_volume.py IN OUT [--width 15] [--most 5]``.

Most frames of MAPbI3 have one of a few volumes, and a training that counts each frame once fits these and leaves the energy against volume,
which is the pressure, to the rest. Frames are sorted into bins of equal width in Å³, and those of a bin that holds fewer than the fullest one are
repeated, at most ``--most`` times. Nothing is left out and no label is changed.
"""

import argparse

import numpy as np
from ase.io import read, write


def repeats(volumes: np.ndarray, width: float, most: int) -> np.ndarray:
    """How often each frame is written: the count of the fullest bin over that of its own, rounded, from 1 to ``most``."""
    bins = np.floor((volumes - volumes.min()) / width).astype(int)
    counts = np.bincount(bins)
    return np.clip(np.rint(counts.max() / counts[bins]).astype(int), 1, most)


def main() -> None:
    """Read the frames, write them and their repeats, say how many of which volume there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frames")
    parser.add_argument("output")
    parser.add_argument("--width", type=float, default=15.0, help="of a bin, Å³")
    parser.add_argument("--most", type=int, default=5, help="times a frame is written")
    arguments = parser.parse_args()
    frames = read(arguments.frames, ":")
    volumes = np.array([frame.get_volume() for frame in frames])
    times = repeats(volumes, arguments.width, arguments.most)
    write(arguments.output, [frame for frame, n in zip(frames, times, strict=True) for _ in range(n)])
    for n in range(1, arguments.most + 1):
        if (times == n).any():
            print(
                f"{(times == n).sum()} frames of {volumes[times == n].min():.0f} to {volumes[times == n].max():.0f} Å³: {n} times"
            )


if __name__ == "__main__":
    main()
