"""What the README says is run: its Python blocks in a process of their own, its commands against the command line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from wsolkit.cli import cli

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    "block", re.findall(r"```python\n(.*?)```", TEXT, re.S), ids=lambda text: text.split("\n")[2][:20]
)
def test_python_blocks_run(block, tmp_path):
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr


def test_commands_exist_with_their_options():
    commands = re.findall(r"^wsolkit (.*)$", TEXT, re.M)
    assert len(commands) >= 5
    for line in commands:
        words, command = line.split(), cli
        path = []
        while hasattr(command, "commands"):
            path.append(words[len(path)])
            command = command.commands[path[-1]]
        text = CliRunner().invoke(cli, [*path, "--help"]).output
        for option in re.findall(r"--[a-z-]+", line):
            assert option in text, f"README: wsolkit {line}"
    targets = re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.M)
    assert set(re.findall(r"^make (\w+)", TEXT, re.M)) <= set(targets)


def test_notebooks_and_modules_that_it_names_exist():
    for name in re.findall(r"^\| `(\d\d_\w+)` ", TEXT, re.M):
        assert (ROOT / "notebooks" / f"{name}.ipynb").is_file()
    for name in re.findall(r"`(\w+\.py)`", TEXT):
        assert (ROOT / "wsolkit" / name).is_file(), name
