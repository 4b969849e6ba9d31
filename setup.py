"""The notebooks lie at the top of the repository; a wheel carries them as wsolkit/notebooks."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithNotebooks(build_py):
    """Copies the notebooks beside the modules; an editable install finds them where they are."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for notebook in sorted(Path("notebooks").glob("*.ipynb")):
            target = Path(self.build_lib, "wsolkit", "notebooks", notebook.name)
            self.mkpath(str(target.parent))
            self.copy_file(str(notebook), str(target))


setup(cmdclass={"build_py": BuildWithNotebooks})
