"""Started by train.py in a process of its own: `nequip-train`, whose traceback goes to a file if it fails."""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from pathlib import Path

#: Environment variables: the folder of the run, named in an override by ${oc.env:…}, so that Hydra's grammar need not
#: know its characters; and the file for a traceback.
FOLDER = "LES_PLUGINS_RUN_FOLDER"
TRACEBACK = "LES_PLUGINS_TRACEBACK"


def main() -> None:
    """`python -m nequip.scripts.train`, exit code 1 where it raises."""
    try:
        runpy.run_module("nequip.scripts.train", run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:
        Path(os.environ[TRACEBACK]).write_text(traceback.format_exc(), encoding="utf-8")
        sys.exit(1)


if __name__ == "__main__":
    main()
