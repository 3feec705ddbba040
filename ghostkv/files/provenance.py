"""What code made a file: a fingerprint that changes with the code and with nothing else.

Snakemake does not see the modules that a script imports. Each rule therefore carries the fingerprint of its
stage as a parameter: a hash of the syntax trees of the stage's module and of all that it imports inside the
package, transitively. Comments, layout and docstrings are not in the tree that is hashed, so a change of
those reruns nothing. Nothing is imported to compute it.
"""

from __future__ import annotations

import ast
import atexit
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
_NAME = PACKAGE.name


def fingerprint(*modules: str) -> str:
    """Hash of the code of modules and of all that they import inside the package.

    Of a room whose modules are found by name, such as codecs, those given here count; all of it where none is given.

    Parameters
    ----------
    *modules : str
        Dotted names, such as "ghostkv.stages.frontier.layer", "ghostkv.codecs.pca".

    Returns
    -------
    str
        16 hex digits.

    Raises
    ------
    ModuleNotFoundError
        The package has no such module.
    """
    digest = hashlib.sha256()
    for name in sorted({name for module in modules for name in closure(module, modules[1:])}):
        digest.update(f"{name}\0{_read(name)[0]}\0".encode())
    return digest.hexdigest()[:16]


@cache
def closure(module: str, found_by_name: tuple[str, ...] = ()) -> tuple[str, ...]:
    """All modules of the package that run when `module` is used, itself included, sorted by name.

    Imports inside functions count: a stage imports torch's side of the package lazily and depends on it all
    the same. Imports under `if TYPE_CHECKING:` never run and do not count. A text that ends with a dot, such as
    "ghostkv.codecs.", names every module of that room, or those of `found_by_name` that are in it.
    """
    if _file(module) is None:
        raise ModuleNotFoundError(f"{module}: no such module in {PACKAGE}")
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        # Importing a.b.c runs a and a.b first.
        parent = name.rpartition(".")[0]
        waiting += [parent] if parent else []
        for named in _read(name)[1]:
            waiting += _room(named, found_by_name) if named.endswith(".") else [named]
    return tuple(sorted(seen))


def _room(prefix: str, found_by_name: tuple[str, ...]) -> list[str]:
    named = [name for name in found_by_name if name.startswith(prefix)]
    folder = PACKAGE.joinpath(*prefix.split(".")[1:-1])
    return named or [prefix + path.stem for path in folder.glob("*.py") if path.stem != "__init__"]


def metadata(code: str | None = None, **facts: object) -> dict[str, str]:
    """Provenance to store in an output: package version, code fingerprint and whatever facts are known.

    Parameters
    ----------
    code : str, optional
        The fingerprint that the job was given, `job.code`.
    **facts
        Such as model, weight_sha256, text, text_sha256. Those that are None are left out.
    """
    from ghostkv import __version__

    known = {"package_version": __version__, "fingerprint": code, **facts}
    return {key: str(value) for key, value in known.items() if value is not None}


def inherited(path: str | os.PathLike, code: str | None) -> dict[str, str]:
    """Provenance of what is made from a Parquet file: its metadata, with this package's version and the job's fingerprint."""
    from ghostkv.files.io import read_metadata

    return read_metadata(path) | metadata(code)


def _file(module: str) -> Path | None:
    head, *rest = module.split(".")
    if head != _NAME:
        return None
    folder = PACKAGE.joinpath(*rest)
    for path in (folder / "__init__.py", folder.with_suffix(".py")):
        if path.is_file():
            return path
    return folder if folder.is_dir() and any(folder.glob("*.py")) else None


@cache
def _read(module: str) -> tuple[str, tuple[str, ...]]:
    """The hash of one module's code and data, and the modules of the package that it names."""
    path = _file(module)
    if path is None or path.is_dir():
        return "", ()
    code, named = _parsed(path.read_bytes(), module, path.name == "__init__.py")
    digest = hashlib.sha256(code.encode())
    if path.name == "__init__.py":
        for data in _data(path.parent):
            digest.update(data.relative_to(path.parent).as_posix().encode() + b"\0" + data.read_bytes())
    return digest.hexdigest(), tuple(name for name in named if _file(name) is not None)


# Parsing all modules takes a second, and every job of a run asks: what was parsed once is kept beside the byte code.
_KEPT = PACKAGE / "__pycache__" / "provenance.json"


@cache
def _kept() -> dict[str, list]:
    try:
        return json.loads(_KEPT.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _parsed(source: bytes, module: str, is_package: bool) -> tuple[str, list[str]]:
    """The hash of a module's syntax tree, and what it names inside the package, there or not."""
    # By content and by the code that looks at it, so that nothing kept can be out of date.
    key = hashlib.sha256(b"\0".join([_own_source(), module.encode(), source])).hexdigest()
    if key not in _kept():
        tree = ast.parse(source, filename=module)
        _drop_docstrings(tree)
        _kept()[key] = [
            hashlib.sha256(ast.dump(tree).encode()).hexdigest(),
            sorted(_imports(tree, module, is_package)),
        ]
    return tuple(_kept()[key])


@cache
def _own_source() -> bytes:
    return Path(__file__).read_bytes()


@atexit.register
def _keep() -> None:
    """Keep what this process parsed, for the next one; a package that cannot be written to is parsed anew."""
    if not _kept.cache_info().currsize or _kept() == _kept.__wrapped__():
        return
    with suppress(OSError):
        part = _KEPT.with_name(f".{_KEPT.name}.{os.getpid()}.part")
        part.parent.mkdir(exist_ok=True)
        part.write_text(json.dumps(_kept()), encoding="utf-8")
        part.replace(_KEPT)


def _drop_docstrings(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str):
                node.body = node.body[1:]


def _imports(tree: ast.Module, module: str, is_package: bool) -> set[str]:
    package = module if is_package else module.rpartition(".")[0]
    names: set[str] = set()
    for node in _running(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.rsplit(".", node.level - 1)[0]
                base = f"{above}.{base}" if base else above
            names.update([base, *(f"{base}.{alias.name}" for alias in node.names)])
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node.value.startswith(_NAME + ".")
        ):
            # A registry may name its modules as text and import them when asked.
            names.add(node.value)
    return {name for name in names if name.isprintable() and name.split(".")[0] == _NAME}


def _running(tree: ast.Module) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker reads."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        typing_only = isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING"
        waiting += node.orelse if typing_only else ast.iter_child_nodes(node)


def _data(package: Path) -> list[Path]:
    """Files of a package that are no code, such as templates: its own, and those in folders without code."""
    found: list[Path] = []
    for path in sorted(package.iterdir()):
        if path.name.startswith((".", "__pycache__")):
            continue
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            found.append(path)
        elif path.is_dir() and not any(path.glob("*.py")):
            found += [
                item for item in sorted(path.rglob("*")) if item.is_file() and not item.name.startswith(".")
            ]
    return found
