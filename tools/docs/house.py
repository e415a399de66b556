#!/usr/bin/env python3
"""The house in figures: rooms, arrows between them, circles.   python tools/docs/house.py [CHECKOUT] [--arrows]

A room is a folder of the package with code in it, or a module beside the folders. An arrow: one room imports another,
inside functions too. A circle: modules that import each other, by whatever way; or rooms that do, but that a folder may
know the folder that it lies in. `.importlinter` checks it: that no arrow runs back up the layers, and that there is no
circle.
"""

from __future__ import annotations

import argparse
import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "gra_hpc"


def modules(root: Path) -> dict[str, Path]:
    """Files of the package by module name."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path) -> Iterator[str]:
    """Dotted names of the package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith(PACKAGE))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
            yield from (f"{node.module}.{a.name}" for a in node.names)


def graph(found: dict[str, Path]) -> dict[str, set[str]]:
    """Which modules each module imports."""
    out: dict[str, set[str]] = {}
    for name, path in found.items():
        out[name] = set()
        for target in imports(path):
            while target not in found:
                target = target.rpartition(".")[0]
            if target not in (name, PACKAGE):
                out[name].add(target)
    return out


def room_of(module: str, found: dict[str, Path]) -> str:
    """The folder of a module, or the module itself where it lies beside the folders."""
    parent = module if found[module].name == "__init__.py" else module.rpartition(".")[0]
    return module if parent == PACKAGE else parent


def circles(of: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules of which each one reaches the others (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    out: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(of[node]):
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            cut = stack.index(node)
            group = stack[cut:]
            del stack[cut:]
            if len(group) > 1:
                out.append(sorted(group))

    for node in of:
        if node not in index:
            visit(node)
    return out


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", nargs="?", type=Path, default=Path(__file__).resolve().parents[2])
    parser.add_argument("--arrows", action="store_true", help="also each room and what it imports")
    args = parser.parse_args()
    found = modules(args.checkout)
    of = graph(found)
    arrows: dict[str, set[str]] = defaultdict(set)
    for name, targets in of.items():
        arrows[room_of(name, found)] |= {room_of(t, found) for t in targets} - {room_of(name, found)}
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in found.items()}
    longest = max(lines, key=lambda name: lines[name])
    print(f"{len(found)} modules, {sum(lines.values())} lines, the longest {longest} ({lines[longest]})")
    print(f"{len(arrows)} rooms, {sum(map(len, arrows.values()))} arrows between them")
    between = {room: {t for t in targets if not room.startswith(f"{t}.")} for room, targets in arrows.items()}
    print(f"{len(circles(of))} circles of modules, {len(circles(between))} of rooms")
    for group in [*circles(of), *circles(between)]:
        print(f"  circle: {', '.join(g.removeprefix(f'{PACKAGE}.') for g in group)}")
    for room in sorted(arrows) if args.arrows else ():
        print(f"  {room} -> {', '.join(t.removeprefix(f'{PACKAGE}.') for t in sorted(arrows[room])) or 'nothing'}")


if __name__ == "__main__":
    main()
