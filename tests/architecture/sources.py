"""The package's source files, and what they import."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE_ROOTS = (ROOT / "control", ROOT / "workers")
STEPS = ROOT / "control" / "sagellm_control" / "store" / "steps"

LUA_AND_PYTHON = sorted(
    path
    for folder in (*SOURCE_ROOTS, ROOT / "tests", ROOT / "benchmarks", ROOT / "examples")
    for path in (*folder.rglob("*.py"), *folder.rglob("*.lua"))
)


def module_name(path: Path) -> str:
    """``sagellm_control.wire.keys`` for its file."""
    source_root = next(root for root in SOURCE_ROOTS if path.is_relative_to(root))
    parts = path.relative_to(source_root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


_MODULES = {module_name(path): path for root in SOURCE_ROOTS for path in sorted(root.rglob("*.py"))}


def modules(package: str = "") -> dict[str, Path]:
    """Module -> file, of a package and all below it; of everything when none is named."""
    return {name: path for name, path in _MODULES.items() if not package or f"{name}.".startswith(f"{package}.")}


@functools.cache
def imports(path: Path) -> tuple[str, ...]:
    """The full names of what a file imports, wherever in it: ``a.b`` for ``from a import b`` as for ``import a.b``."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def arrows() -> dict[str, set[str]]:
    """Module -> the modules that it imports; what is imported for the type checker alone counts like all else."""
    known = modules()
    found: dict[str, set[str]] = {}
    for module, path in known.items():
        # A name that is no module is taken from one.
        imported = {name if name in known else name.rpartition(".")[0] for name in imports(path)}
        found[module] = imported & known.keys() - {module}
    return found


def reaches(name: str, package: str) -> bool:
    """Whether an imported name is the package or lies in it."""
    return name == package or name.startswith(f"{package}.")


def text_literals(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every string literal that is not a docstring, f-strings by their fixed parts."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.lineno, node.value
