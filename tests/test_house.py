"""The rules of the house, held over the syntax trees of the package: nothing is imported to check them."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ghostkv"
# Floors from the ground up; rooms of one floor may import each other as long as no circle comes of it.
FLOORS = (
    {"files"},
    {"config", "sources", "captures", "codecs", "quantised", "store"},
    {"elimination"},
    {"selectors", "models", "gpu"},
    {"runtime"},
    {"stages"},
    {"report"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
TORCH_ROOMS = {"models", "runtime", "gpu"}


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


TREES = {_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}


def _imports(tree: ast.Module) -> set[str]:
    """Absolute names that a module imports, inside functions too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in TREES else node.module for name in whole}
    return names


IMPORTS = {name: {to for to in _imports(tree) if to in TREES} - {name} for name, tree in TREES.items()}


def _room(name: str) -> str:
    return name.split(".")[1] if name.count(".") else ""


def _stage(name: str) -> str | None:
    parts = name.split(".")
    return parts[2] if parts[1:2] == ["stages"] and len(parts) > 3 else None


def _circles() -> list[list[str]]:
    """Strongly connected modules (Tarjan), those of one module left out."""
    index, low, stack, found = {}, {}, [], []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for to in IMPORTS[name]:
            if to not in index:
                visit(to)
                low[name] = min(low[name], low[to])
            elif to in stack:
                low[name] = min(low[name], index[to])
        if low[name] == index[name]:
            component = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(component) > 1:
                found.append(sorted(component))

    for name in sorted(IMPORTS):
        if name not in index:
            visit(name)
    return found


def test_imports_go_down_in_no_circle_and_from_no_stage_to_another():
    edges = [(name, to) for name, found in sorted(IMPORTS.items()) for to in sorted(found)]
    inside = [(name, to) for name, to in edges if _room(name) and _room(to)]
    climbs = [(name, to) for name, to in inside if FLOOR[_room(to)] > FLOOR[_room(name)]]
    crossings = [
        (name, to) for name, to in inside if _stage(name) and _stage(to) and _stage(name) != _stage(to)
    ]
    circles = _circles()
    print(
        f"\n{len(TREES)} modules, {len(edges)} imports: {len(climbs)} climb, {len(circles)} circles, "
        f"{len(crossings)} from stage to stage"
    )
    assert (climbs, circles, crossings) == ([], [], [])


def test_every_room_has_a_floor_and_the_root_holds_nothing_else():
    assert {path.name for path in PACKAGE.iterdir() if not path.name.startswith("__pycache__")} == {
        "__init__.py",
        *FLOOR,
    }


def test_torch_transformers_and_triton_stay_in_their_rooms_and_snakemake_outside():
    for name, tree in TREES.items():
        outside = {found.partition(".")[0] for found in _imports(tree)}
        assert "snakemake" not in outside, name
        assert not outside & {"torch", "transformers"} or _room(name) in TORCH_ROOMS, name
        assert "triton" not in outside or _room(name) == "gpu", name


def test_a_class_name_stands_in_one_module():
    homes = defaultdict(set)
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                homes[node.name].add(name)
    assert {cls: sorted(found) for cls, found in homes.items() if len(found) > 1} == {}


@pytest.mark.parametrize(
    "folder",
    # The compiler's folder may appear after one of pytest's workers has looked and before another does.
    sorted(path for path in PACKAGE.joinpath("stages").iterdir() if path.is_dir() and path.name[0] != "_"),
    ids=lambda path: path.name,
)
def test_the_package_of_a_stage_is_empty(folder):
    """What stands in it would be part of every job's fingerprint."""
    body = ast.parse((folder / "__init__.py").read_text(encoding="utf-8")).body
    assert all(isinstance(node, ast.Expr) for node in body)


def test_what_the_workflow_reads_at_every_start_imports_nothing_slow():
    """Snakemake reads the rules again for every job; Numba, SciPy and torch would cost a second each time."""
    waiting, seen, outside = ["ghostkv.report.jobs"], set(), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        # What stands in a function is imported when it is called.
        first = ast.Module(
            [node for node in TREES[name].body if isinstance(node, ast.Import | ast.ImportFrom)], []
        )
        found = _imports(first)
        outside |= {one.partition(".")[0] for one in found}
        waiting += [one for one in found if one in TREES]
    assert "ghostkv.stages.bandwidth.schemas" in seen
    assert not outside & {"numba", "scipy", "torch", "transformers", "altair"}


def test_loops_are_compiled_by_the_one_decorator_that_knows_when_they_are_out_of_date():
    users = [
        path for path in PACKAGE.rglob("*.py") if "from numba import" in path.read_text(encoding="utf-8")
    ]
    assert [path.name for path in users] == ["compiled.py"]
