"""What pyproject.toml cannot say: recipes/ and MODELS.md lie beside the package here, and inside it in a wheel."""

from pathlib import Path
from shutil import copy2, copytree

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:  # the repository's own are used
            return
        package = Path(self.build_lib, "lipsep")
        copytree("recipes", package / "recipes", dirs_exist_ok=True)
        copy2("MODELS.md", package / "MODELS.md")


setup(cmdclass={"build_py": BuildWithRecipes})
