"""Prints the lower bounds of pyproject.toml as constraints for pip: ``jax>=0.10.2`` is jax==0.10.2.

python .ci/lower_bounds.py > lower.txt && pip install -e '.[test]' -c lower.txt
"""

import re
import tomllib
from pathlib import Path

# The tools that check the text of the code are as new as can be.
TOOLS = {"ruff", "pyright"}


def main():
    """Prints a line for each requirement that has a lower bound."""
    path = Path(__file__).parents[1] / "pyproject.toml"
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["test"], *extras["wandb"], *extras["mlflow"]]
    for requirement in wanted:
        found = re.match(r"([\w.-]+)>=([\d.]+)", requirement)
        if found and found[1] not in TOOLS:
            print(f"{found[1]}=={found[2]}")


if __name__ == "__main__":
    main()
