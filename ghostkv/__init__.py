"""GhostKV Lab: how much of a KV cache need never be read.

    policy = ghostkv.fit(model, tokenizer, texts, bytes_ratio=0.25)
    with ghostkv.elimination(model, policy) as traffic:
        model.generate(...)

As good as empty on purpose: every stage depends on this file, so an import here would rerun them all.
"""

import os

__version__ = "0.1.0"
# The public face, and the room and module where it is: imported when it is asked for. No whole names of modules, which would
# make them a part of every job's fingerprint.
_FACE = {
    "fit": ("runtime", "fitting"),
    "elimination": ("runtime", "eliminating"),
    "load": ("runtime", "policy_files"),
    "frontier": ("report", "array_frontier"),
}
__all__ = ["__version__", "elimination", "fit", "frontier", "load"]


def _face(name):
    from importlib import import_module

    return getattr(import_module(".".join((__name__, *_FACE[name]))), name)


def __getattr__(name):
    if name not in _FACE:
        raise AttributeError(f"module 'ghostkv' has no attribute {name!r}; it has {', '.join(_FACE)}")
    return _face(name)


def _keep_compiled() -> None:
    """Name a private folder for what Numba compiles where it would find none, for this process and those it starts.

    Numba writes beside the source or into the user's cache, and refuses to import a cached loop where it can do neither.
    """
    package = os.path.dirname(__file__)
    beside = [path for path in (package, os.path.join(package, "__pycache__")) if os.path.exists(path)]
    if "NUMBA_CACHE_DIR" in os.environ or all(os.access(path, os.W_OK) for path in beside):
        return
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    try:
        if os.path.isabs(cache):
            os.makedirs(cache, exist_ok=True)
            if os.access(cache, os.W_OK):
                return
    except OSError:
        pass
    import sys
    import tempfile
    import warnings

    folder = os.path.join(tempfile.gettempdir(), f"ghostkv-{os.getuid()}")
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        found = os.lstat(folder)
        # What lies in a cache is run: it may be nobody else's, nor a link to elsewhere.
        if (found.st_mode, found.st_uid) != (0o40700, os.getuid()):
            folder = tempfile.mkdtemp(prefix="ghostkv-")
    os.environ["NUMBA_CACHE_DIR"] = folder
    if "numba" in sys.modules:
        sys.modules["numba"].config.CACHE_DIR = folder
    warnings.warn(
        f"Neither {package} nor {cache} can be written: compiled loops are kept in {folder}. NUMBA_CACHE_DIR names another folder.",
        stacklevel=2,
    )


_keep_compiled()
