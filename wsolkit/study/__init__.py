"""What notebooks call: chapters and exercises."""

from wsolkit.study.faithfulness_section import show_faithfulness
