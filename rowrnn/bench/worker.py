"""What a measuring process runs: ``python -m rowrnn.bench.worker ORDERS``.

ORDERS is a JSON object: the role (a module), the options of its `start`, its number and the cores
to stay on. `start` returns an object; each line on stdin names one of its methods and arguments,
and the value it returns goes back as a line on stdout. Lines may start more roles, and end them.
`rowrnn.bench.child` is the other end.
"""

import gc
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
        # Libraries count the cores to size their thread pools, so that this comes first.
        os.sched_setaffinity(0, orders["cpus"])
    # Libraries print what they like; only answers may reach the parent.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(**message: object) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        importlib.import_module(orders["role"])
    except ModuleNotFoundError as error:
        answer(missing=error.name)
        return
    # A peer may do without jax.
    serving = pinned(serve) if "jax" in sys.modules else serve
    serving(orders, answer)


def serve(orders: dict[str, Any], answer: Callable[..., None]) -> None:
    """Starts a role and answers until stdin ends."""
    served: dict[int, Any] = {}
    start(orders, served, answer)
    for line in sys.stdin if served else ():
        request = json.loads(line)
        if "role" in request:
            start(request, served, answer)
        elif "end" in request:
            served.pop(request["to"], None)
            gc.collect()
        else:
            one = served[request["to"]]
            try:
                answer(answer=getattr(one, request["do"])(*request["arguments"]))
            except Exception as error:
                answer(error=f"{type(error).__name__}: {error}")


def start(orders: dict[str, Any], served: dict[int, Any], answer: Callable[..., None]) -> None:
    """Starts a role, which is served under its number from then on."""
    try:
        one = importlib.import_module(orders["role"]).start(**orders["options"])
    except ModuleNotFoundError as error:
        answer(missing=error.name)
    except Exception as error:
        answer(error=f"{type(error).__name__}: {error}")
    else:
        served[orders["to"]] = one
        answer(answer=one.facts)


if __name__ == "__main__":
    main()
