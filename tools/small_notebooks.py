"""Write copies of the notebooks with small parameters, for nbval: `python tools/small_notebooks.py FOLDER [NAME ...]`.

Each cell runs in them as in the notebook, on few images and networks of one epoch. 00_tour, whose stored outputs are
compared, is left as it is.
"""

from __future__ import annotations

import sys
from pathlib import Path

import papermill

OPTIONS = {"size": 64, "width": 0.25, "per_class": 8, "batch_size": 16}
SMALL = {"classes": 4, "epochs": 1, "limit": 8, "options": OPTIONS}
OWN = {"16_labels_to_detector": {"steps": 5}}  # parameters of a chapter's own
NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"

if __name__ == "__main__":
    folder, *names = sys.argv[1:]
    Path(folder).mkdir(parents=True, exist_ok=True)
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb"))[1:]:
        if not names or notebook.stem in names:
            parameters = SMALL | OWN.get(notebook.stem, {})
            papermill.execute_notebook(notebook, Path(folder) / notebook.name, parameters, prepare_only=True)
