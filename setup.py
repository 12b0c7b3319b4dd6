"""Puts the TOML files of experiments/ into the package that is built; pyproject.toml has the rest.

They stay where they are in a checkout, which an editable install uses as it is.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithExperiments(build_py):
    """Copies ``experiments/*.toml`` to ``rowrnn/experiments/``."""

    def run(self):
        """Builds the package, and then copies."""
        super().run()
        if not self.editable_mode:
            for source, target in self._experiments().items():
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target))

    def get_outputs(self, include_bytecode=True):
        """What is built, with these files."""
        ours = [] if self.editable_mode else map(str, self._experiments().values())
        return [*super().get_outputs(include_bytecode), *ours]

    def _experiments(self):
        """Each file, and where it goes."""
        target = Path(self.build_lib, "rowrnn", "experiments")
        return {
            source: target / source.name for source in sorted(Path("experiments").glob("*.toml"))
        }


setup(cmdclass={"build_py": BuildWithExperiments})
