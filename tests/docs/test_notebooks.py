"""The notebooks as files: parameters that papermill understands, stored clean, assertions inside. nbval runs them."""

from __future__ import annotations

from pathlib import Path

import nbformat
import papermill
import pytest

from wsolkit.data.catalogue import DATASETS
from wsolkit.runs.parameters import RunConfig, of_notebook

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
OWN = {"01_train": {"variant"}, "07_any_cam": {"method"}, "08_compare": {"methods"}}
OWN |= {"03_rethinking_cam": {"tau", "tap_epochs", "method"}, "09_training_time_methods": {"method"}}
OWN |= {"16_labels_to_detector": {"method", "steps"}}
CHAPTERS = ("02_cam", "04_grad_cam", "05_grad_cam_plusplus", "06_score_cam", "11_ddt", "13_c2am", "14_bas")
OWN |= {stem: {"method"} for stem in (*CHAPTERS, "15_what_labels_can_tell")}
READERS = [
    "dataset",
    "root",
    "classes",
    "backbone",
    "weights",
    "epochs",
    "limit",
    "faithfulness",
    "seed",
    "device",
    "out",
]
TAGS = {"parameters", "hide-input", "in-report", "exercise", "nbval-ignore-output"}
SHORT = {"09_training_time_methods": {"epochs"}}  # trains two networks, so few epochs unless it is told otherwise


def test_all_notebooks_are_there():
    assert [p.stem for p in NOTEBOOKS] == [
        *("00_tour", "01_train", "02_cam", "03_rethinking_cam", "04_grad_cam", "05_grad_cam_plusplus", "06_score_cam"),
        *(
            "07_any_cam",
            "08_compare",
            "09_training_time_methods",
            "10_write_your_own_cam",
            "11_ddt",
            "12_psol",
            "13_c2am",
            "14_bas",
            "15_what_labels_can_tell",
            "16_labels_to_detector",
        ),
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_parameters_are_those_that_a_reader_changes_with_help_and_empty_defaults(path):
    inspected = papermill.inspect_notebook(str(path))
    own = OWN.get(path.stem, set())
    assert set(inspected) == {*READERS, "options", *own}, "papermill drops lines that it does not understand"
    for name, info in inspected.items():
        assert info["help"], f"{name} has no help"
        assert name != "dataset" or all(data in info["help"] for data in DATASETS)
        value = eval(info["default"], {})  # a literal of our own notebook
        if name in RunConfig.model_fields and name not in {"limit"} | SHORT.get(path.stem, set()):
            assert RunConfig.is_empty(name, value) or value == RunConfig.model_fields[name].default, name
    assert eval(inspected["options"]["default"], {}) == {}
    given = of_notebook({name: eval(info["default"], {}) for name, info in inspected.items()})
    config = RunConfig.make(**given)
    assert config.with_changes(limit=0, epochs=0) == RunConfig.make(), "the small synthetic configuration"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_stored_as_agreed(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    assert any("assert" in cell.source for cell in code)
    if path.stem == "00_tour":
        assert any(cell.outputs for cell in code), "the tour keeps its outputs, and nbval compares them"
    else:
        assert not any(cell.outputs or cell.execution_count for cell in code)
    assert not {tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])} - TAGS
    for cell in notebook.cells:
        if "## Exercise" in cell.source and path.stem != "10_write_your_own_cam":
            assert "exercise" in cell.metadata.get("tags", []), "reports leave exercises out"
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert text.count("\n# ") + text.startswith("# ") == 1 and "## Summary" in text and "## Exercises" in text


@pytest.mark.parametrize(
    "path",
    [p for p in NOTEBOOKS if p.stem[:2] in ("02", "03", "04", "05", "06", "07", "09", "15")],
    ids=lambda p: p.stem,
)
def test_a_report_finds_what_it_shows_itself_tagged(path):
    tagged = [c.source for c in nbformat.read(path, as_version=4).cells if "in-report" in c.metadata.get("tags", [])]
    assert any(source.splitlines()[-1] == "result" for source in tagged), "the table of the result"
    assert any("show_best_and_worst(" in source for source in tagged)
    assert (
        any("show_curves(" in source for source in tagged) or path.stem == "03_rethinking_cam"
    )  # there it compares steps


def test_nothing_is_copied_from_the_package():
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            assert cell.cell_type != "code" or ("def fit(" not in cell.source and "class WSOL" not in cell.source)
