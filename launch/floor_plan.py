"""The packages of loop_rl, drawn from the code's own imports. Standard library only.

    python launch/floor_plan.py            # what docs/design.md shows; `make docs` puts it there

A package imports only from floors below its own. tests/test_floor_plan.py holds that, and that no modules import each
other in a circle.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
FLOORS = (
    ("machine", "config", "data"),
    ("store", "environments", "algorithms"),
    ("agents",),
    ("serving", "training"),
    ("sampling",),
    ("evaluation",),
    ("inspection", "planning"),
    ("running",),
    ("comparison",),
)
"""Packages, the ground first. What lies beside them (`train.py` and the other commands) is the roof."""
ROOF = "commands"
_BEGIN, _END = "<!-- made by launch/floor_plan.py -->", "<!-- end -->"


def floor_of(package: str) -> int:
    """Number of the floor that a package is on, 0 the ground."""
    return next((i for i, packages in enumerate(FLOORS) if package in packages), len(FLOORS))


def package_of(module: str) -> str:
    """The package of a module such as `loop_rl.store.run_dir`; ROOF for those that lie in no package."""
    parts = module.split(".")
    return parts[1] if len(parts) > 2 or (REPO / "loop_rl" / parts[-1]).is_dir() else ROOF


def imports() -> dict[str, set[str]]:
    """What each module of loop_rl imports of loop_rl, imports inside functions included."""
    modules = {_name(path): path for path in sorted((REPO / "loop_rl").rglob("*.py"))}
    return {name: set(_imported(path, modules)) - {name} for name, path in modules.items()}


def package_arrows(imported: Mapping[str, set[str]]) -> set[tuple[str, str]]:
    """(package, package that it imports), without those of a package to itself."""
    pairs = {(package_of(module), package_of(other)) for module, others in imported.items() for other in others}
    return {(package, other) for package, other in pairs if package != other}


def circle(imported: Mapping[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; empty when there is none."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return path[path.index(module) :]
        if module not in done:
            for other in sorted(imported[module]):
                if found := visit(other, [*path, module]):
                    return found
            done.add(module)
        return []

    return next((found for module in imported if (found := visit(module, []))), [])


def drawing() -> str:
    """A diagram (mermaid) of the floors and of the arrows that are not implied by others, and a line a package."""
    arrows = package_arrows(imports())
    lines = ["```mermaid", "flowchart TD"]
    for packages in reversed([*FLOORS, (ROOF,)] if _has(arrows, ROOF) else FLOORS):
        lines.append("    " + " ~~~ ".join(f"{package}[{package}]" for package in packages))
    lines += [f"    {package} --> {other}" for package, other in sorted(arrows) if not _implied(package, other, arrows)]
    lines += ["```", "", "| package | what lives there | imports |", "|---|---|---|"]
    for packages in FLOORS:
        for package in packages:
            says = ast.get_docstring(ast.parse((REPO / "loop_rl" / package / "__init__.py").read_text()))
            theirs = ", ".join(
                sorted((other for one, other in arrows if one == package), key=lambda p: (floor_of(p), p))
            )
            lines.append(f"| `{package}` | {' '.join(says.partition(chr(10) * 2)[0].split())} | {theirs or 'none'} |")
    return "\n".join(lines)


def in_document(text: str) -> str:
    """A document with the drawing put between its two marks."""
    pattern = re.compile(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", re.DOTALL)
    return pattern.sub(lambda _: f"{_BEGIN}\n{drawing()}\n{_END}", text)


def _name(path: Path) -> str:
    parts = path.relative_to(REPO).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(path: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in modules else node.module


def _has(arrows: set[tuple[str, str]], package: str) -> bool:
    return any(package in arrow for arrow in arrows)


def _implied(package: str, other: str, arrows: set[tuple[str, str]]) -> bool:
    """Whether `package` reaches `other` by a way round."""
    reached, todo = set(), [between for one, between in arrows if one == package and between != other]
    while todo:
        if (between := todo.pop()) not in reached:
            reached.add(between)
            todo += [further for one, further in arrows if one == between]
    return other in reached


def main() -> int:
    document = REPO / "docs" / "design.md"
    if sys.argv[1:] == ["--write"]:
        document.write_text(in_document(document.read_text()))
    else:
        print(drawing())
    return 0


if __name__ == "__main__":
    sys.exit(main())
