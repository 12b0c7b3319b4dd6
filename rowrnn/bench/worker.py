"""What a measuring process runs: ``python -m rowrnn.bench.worker ORDERS``.

ORDERS is a JSON object: the role (a module), the options of its `start` and the cores to stay
on. `start` returns an object; each line on stdin names one of its methods and the arguments, and
the value it returns goes back as a line on stdout. `rowrnn.bench.child` is the other end.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from rowrnn.jax_settings import pinned


def main() -> None:
    """Serves until stdin ends, which it does when the parent does."""
    orders = json.loads(sys.argv[1])
    if orders["cpus"]:
        # Before any library has counted the cores to size its thread pool.
        os.sched_setaffinity(0, orders["cpus"])
    # Libraries print what they like; only answers may reach the parent.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(**message: object) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        role = importlib.import_module(orders["role"])
    except ModuleNotFoundError as error:
        answer(missing=error.name)
        return
    # A peer may do without jax.
    serving = pinned(serve) if "jax" in sys.modules else serve
    serving(role, orders["options"], answer)


def serve(role: Any, options: dict[str, Any], answer: Callable[..., None]) -> None:
    """Starts a role and answers until stdin ends."""
    try:
        served = role.start(**options)
        answer(answer=served.facts)
    except ModuleNotFoundError as error:
        answer(missing=error.name)
        return
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer(answer=getattr(served, request["do"])(*request["arguments"]))
        except Exception as error:
            answer(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
