"""Nothing private: rowrnn's source uses other packages as their documentation says, and no more.

What is looked for: imports and uses of private names of other packages, functions and attributes of
theirs that are replaced, and hooks that hold for the whole process.
"""

import ast
import logging
import re
import warnings
from pathlib import Path

import pytest

import rowrnn
from rowrnn import cli

PACKAGE = Path(rowrnn.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# Public all the same: their documentation says so.
PUBLIC = {"_replace", "_asdict", "_fields", "_make", "_exit"}

ALLOWED = {
    "cli/__init__.py": {
        # The command line owns its process, and with it stdin, stdout and stderr.
        "sets sys.stdout",
        "sets sys.stderr",
        "sets attributes of sys",
        # Within `warnings.catch_warnings`, which puts it back.
        "sets warnings.showwarning",
    },
    # PyTorch's documentation has no other way to say it.
    "bench/peers/pytorch.py": {
        "sets torch.backends.cuda.matmul.allow_tf32",
        "sets torch.backends.cudnn.allow_tf32",
    },
}

HOOKS = {
    "asyncio.set_event_loop_policy",
    "builtins.setattr",
    "logging.setLoggerClass",
    "logging.setLogRecordFactory",
    "sys.addaudithook",
    "sys.setprofile",
    "sys.settrace",
    "threading.setprofile",
    "threading.settrace",
}

PRIVATE_PATH = re.compile(r"[A-Za-z]\w*(\.\w+)*\._[A-Za-z]\w*(\.\w+)*")


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def dotted(node):
    """``a.b.c`` as text; None where it is something else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return base and f"{base}.{node.attr}"
    return None


class Doors(ast.NodeVisitor):
    """Collects what a module does that it should not."""

    def __init__(self, tree):
        self.found = []
        # Names that an import binds to something of another package, and what that is.
        self.foreign = {}
        # Private names that the module gives itself.
        self.own = set()
        for node in ast.walk(tree):
            self._learn(node)
        self.visit(tree)

    def _learn(self, node):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    name = alias.name if alias.asname else alias.name.split(".")[0]
                    self._bind(alias.asname or name, name)
            case ast.ImportFrom(module=str(module), names=names):
                for alias in names:
                    self._bind(alias.asname or alias.name, f"{module}.{alias.name}")
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                self.own.add(name)
            case ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                self.own.add(name)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                self.own.add(name)

    def _bind(self, name, what):
        if what.split(".")[0] != "rowrnn":
            self.foreign[name] = what

    def _absolute(self, node):
        """The full name of something of another package, or None."""
        name = dotted(node)
        first, _, rest = (name or "").partition(".")
        if first not in self.foreign:
            return None
        return self.foreign[first] + (f".{rest}" if rest else "")

    def visit_Import(self, node):
        for alias in node.names:
            self._imported(alias.name)

    def visit_ImportFrom(self, node):
        for alias in node.names:
            self._imported(f"{node.module}.{alias.name}")

    def _imported(self, name):
        first, *rest = name.split(".")
        if first != "rowrnn" and any(map(is_private, [first, *rest])):
            self.found.append(f"imports {name}")

    def visit_Attribute(self, node):
        if is_private(node.attr) and node.attr not in self.own:
            self.found.append(f"uses {ast.unparse(node)}")
        if not isinstance(node.ctx, ast.Load) and (what := self._absolute(node)):
            self.found.append(f"sets {what}")
        self.generic_visit(node)

    def visit_Call(self, node):
        name = self._absolute(node.func) or f"builtins.{dotted(node.func)}"
        if name in HOOKS and name != "builtins.setattr":
            self.found.append(f"calls {name}")
        if name in ("builtins.setattr", "builtins.delattr") and (
            what := self._absolute(node.args[0])
        ):
            self.found.append(f"sets attributes of {what}")
        if name in ("builtins.getattr", "builtins.hasattr", "operator.attrgetter"):
            for argument in node.args:
                if isinstance(argument, ast.Constant) and is_private(str(argument.value)):
                    self.found.append(f"uses {argument.value}")
        self.generic_visit(node)

    def visit_Constant(self, node):
        if isinstance(node.value, str) and PRIVATE_PATH.fullmatch(node.value):
            self.found.append(f"names {node.value}")


def doors(source):
    return Doors(ast.parse(source)).found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_private_door_of_another_package_is_used(path):
    name = str(path.relative_to(PACKAGE))
    assert set(doors(path.read_text())) <= ALLOWED.get(name, set())


def test_a_command_puts_back_how_warnings_are_shown(capsys):
    before = warnings.showwarning
    try:
        assert cli.run(["--version"]) == 0
    finally:
        logging.disable(logging.NOTSET)
    assert warnings.showwarning is before


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import jax._src.compiler", "imports jax._src.compiler"),
        ("from jax import _src", "imports jax._src"),
        ("from jax._src import distributed", "imports jax._src.distributed"),
        ("from jaxlib import _jax as xla", "imports jaxlib._jax"),
        ("def f():\n    from jax._src.lib import _jax", "imports jax._src.lib._jax"),
        ("import jax\njax._src.x()", "uses jax._src"),
        ("cluster._cluster_types", "uses cluster._cluster_types"),
        ("def f(cache):\n    return cache._path", "uses cache._path"),
        ("import sys\nsys._current_frames()", "uses sys._current_frames"),
        ("getattr(cache, '_path')", "uses _path"),
        ("getattr(cache, '_path', None)", "uses _path"),
        ("importlib.import_module('jax._src.compiler')", "names jax._src.compiler"),
        ("module == 'jax._src.compiler'", "names jax._src.compiler"),
        ("import sys\nsys.excepthook = f", "sets sys.excepthook"),
        ("import sys\nsys.unraisablehook = f", "sets sys.unraisablehook"),
        ("import sys as s\ns.excepthook = f", "sets sys.excepthook"),
        ("import threading\nthreading.excepthook = f", "sets threading.excepthook"),
        ("import warnings\nwarnings.showwarning = f", "sets warnings.showwarning"),
        ("import builtins\nbuiltins.open = f", "sets builtins.open"),
        ("from jax import numpy as jnp\njnp.dot = f", "sets jax.numpy.dot"),
        ("from a import B\nB.method = f", "sets a.B.method"),
        ("import jax\njax.lax.dot: int = f", "sets jax.lax.dot"),
        ("import jax\njax.n += 1", "sets jax.n"),
        ("import jax\ndel jax.jit", "sets jax.jit"),
        ("import jax\nsetattr(jax.lax, 'dot', f)", "sets attributes of jax.lax"),
        ("import sys\nsys.settrace(f)", "calls sys.settrace"),
        ("from sys import settrace\nsettrace(f)", "calls sys.settrace"),
        ("import asyncio\nasyncio.set_event_loop_policy(p)", "calls asyncio.set_event_loop_policy"),
    ],
)
def test_a_private_door_is_found(source, found):
    assert found in doors(source)


@pytest.mark.parametrize(
    "source",
    [
        "from __future__ import annotations",
        "from rowrnn.core.lstm import _x",
        "import os\nos._exit(1)",
        "state._replace(step=1)",
        "class A:\n    def __init__(self): self._x = 1\n    def f(self, other): return other._x",
        "def _f(): ...\nclass A:\n    def _g(self): ...\na._g()",
        "import jax\njax.config.update('jax_enable_x64', True)",
        "import os\nos.environ['NPROC'] = '4'",
        "type(x).__name__",
        "getattr(hint, '__metadata__', ())",
        "from rowrnn import files\nfiles.x = 1",
    ],
)
def test_what_is_public_or_our_own_is_not(source):
    assert doors(source) == []
