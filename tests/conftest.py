"""What several test files need: wheels made on the spot, and a stand-in for pip."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Work goes out by file, so that what a file's tests share is made once; tests/workflow counts as one file.

    That one takes longest and goes out first: the others fill up the workers beside it.

    (Marks for `--dist loadgroup` would say the same, but reach no worker under pytest 9.2 and xdist 3.8.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "workflow" if nodeid.startswith("tests/workflow/") else nodeid.split("::", 1)[0]

        def _assign_work_unit(self, node) -> None:
            if "workflow" in self.workqueue:
                self.workqueue.move_to_end("workflow", last=False)
            super()._assign_work_unit(node)

    return ByFile(config, log)


def _make_wheel(folder: Path, files: dict[str, str], name: str = "tiny_texts", version: str = "1.0") -> Path:
    """A wheel that the real pip accepts."""
    folder.mkdir(parents=True, exist_ok=True)
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    meta = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in (files | meta).items():
            archive.writestr(zipfile.ZipInfo(member), content)
    return path


class _StubPip:
    """Stands for pip with an index of some wheels: copies the one that is asked for, and counts."""

    def __init__(self, *wheels: Path):
        self.wheels, self.calls = wheels, 0

    def __call__(self, package: str, folder: Path) -> None:
        self.calls += 1
        start = package.partition("==")[0].replace("-", "_") + "-"
        found = [wheel for wheel in self.wheels if wheel.name.startswith(start)]
        if not found:
            raise RuntimeError("ERROR: No matching distribution found")
        (folder / found[0].name).write_bytes(found[0].read_bytes())


@pytest.fixture(scope="session")
def make_wheel():
    """`make_wheel(folder, {member: content})` -> path of a wheel that the real pip accepts."""
    return _make_wheel


@pytest.fixture(scope="session")
def stub_pip():
    """`stub_pip(*wheels)` stands for pip: it copies the wheel that is asked for, or fails; `.calls` counts."""
    return _StubPip
