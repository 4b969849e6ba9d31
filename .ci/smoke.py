"""Every module can be imported, and the installed package goes from start to numbers: a short test for any system."""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys
import tempfile
from pathlib import Path

SWEEP = "sweep --backbones resnet18 --methods cam --per-class 8 --size 32 --width 0.125 --epochs 1"


def main() -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.chdir(folder)  # away from the checkout, so that the installed package is imported
        sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).resolve().parents[1]]
        package = importlib.import_module("wsolkit")
        for module in pkgutil.walk_packages(package.__path__, "wsolkit."):
            if not module.name.endswith(".__main__"):
                importlib.import_module(module.name)
        print(f"wsolkit {package.__version__} from {package.__file__}: every module can be imported")
        for arguments in ("init study", f"{SWEEP} --plan", SWEEP):
            where = folder if arguments.startswith("init") else "study"
            subprocess.run([sys.executable, "-m", "wsolkit", *arguments.split()], cwd=where, check=True)
        rows = Path("study/reports/results.csv").read_text(encoding="utf-8").splitlines()
        assert len(rows) == 2, rows
        print(rows[1])


if __name__ == "__main__":
    main()
