"""What the docs show is true: configs load, and every path, module, link and anchor that they name exists."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from ghostkv.config.experiment import Config, load_config

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "results/README.md",
    ROOT / "resources/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
_BLOCK = re.compile(r"(?:^    .*\n)+|^```ya?ml\n(?:.*\n)*?```$", re.MULTILINE)
_NAMED = re.compile(r"\s*# \S+\.yaml\b")
_PATH = re.compile(
    r"(?<![\w./<-])(?:ghostkv|tests|workflow|docs|profiles)/(?:[\w./*-]|\{[\w,]+\}|<\w+>)*(?<![.,])"
)
_MODULE = re.compile(r"(?<![\w./])ghostkv(?:\.[a-z_]\w*)+")
_SHORT = re.compile(r"`((?!__init__)\w+\.(?:py|smk))`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def snippets():
    """Blocks that start with the name of a YAML file, and those that are a mapping with a section of the config."""
    for path in PAGES:
        for number, found in enumerate(_BLOCK.findall(path.read_text(encoding="utf-8"))):
            block = re.sub(r"^```.*$", "", found, flags=re.MULTILINE)
            try:
                raw = yaml.safe_load(block)
            except yaml.YAMLError:
                raw = None
            sections = isinstance(raw, dict) and set(raw) & {*Config.model_fields}
            if sections or _NAMED.match(block):
                yield pytest.param(block, id=f"{path.stem}-{number}")


def expanded(path):
    """`a/{b,c}.py` as `a/b.py` and `a/c.py`."""
    braces = re.search(r"\{([\w,]+)\}", path)
    if not braces:
        return [path]
    return [
        one
        for word in braces[1].split(",")
        for one in expanded(path[: braces.start()] + word + path[braces.end() :])
    ]


def exists(path, to_be_written):
    """Whether a path is there. `<name>` and `*` stand for any name; a file that the reader is to write needs its folder."""
    pattern = re.sub(r"<\w+>", "*", path).rstrip("/")
    if to_be_written and (ROOT / pattern).suffix and not {"*"} & {*str(Path(pattern).parent)}:
        pattern = str(Path(pattern).parent)
    return any(ROOT.glob(pattern))


def module_exists(name):
    """Whether a dotted name is a module or room, or something that a module names."""
    place, parts = ROOT, name.split(".")
    for number, part in enumerate(parts):
        if (place / part).is_dir():
            place = place / part
            continue
        file = place / f"{part}.py"
        rest = parts[number + 1 :] if file.is_file() else parts[number:]
        text = (file if file.is_file() else place / "__init__.py").read_text(encoding="utf-8")
        return not rest or re.search(rf"\b{rest[0]}\b", text) is not None
    return True


@cache
def anchors(page):
    """The anchors of a page: its headings as GitHub writes them, and those set by hand."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | {*re.findall(r'<a id="([^"]+)">', text)}


def named(pattern):
    """Each page with what the pattern finds in it."""
    return [
        pytest.param(
            page,
            sorted(set(pattern.findall(page.read_text(encoding="utf-8")))),
            id=str(page.relative_to(ROOT)),
        )
        for page in PAGES
    ]


def test_snippets_are_found():
    assert {"extending", "quality", "retrieval"} <= {found.id.split("-")[0] for found in snippets()}


@pytest.mark.parametrize("block", list(snippets()))
def test_a_config_in_the_docs_loads(block):
    load_config(yaml.safe_load(block))


@pytest.mark.parametrize(("page", "paths"), named(_PATH))
def test_every_path_exists(page, paths):
    to_be_written = page.name == "extending.md"
    assert [one for path in paths for one in expanded(path) if not exists(one, to_be_written)] == []


@pytest.mark.parametrize(("page", "modules"), named(_MODULE))
def test_every_module_exists(page, modules):
    assert [name for name in modules if not module_exists(name)] == []


@pytest.mark.parametrize(("page", "names"), named(_SHORT))
def test_a_file_is_named_with_its_room(page, names):
    assert names == []


@pytest.mark.parametrize(("page", "links"), named(_LINK))
def test_every_link_leads_somewhere(page, links):
    broken = []
    for link in links:
        if re.match(r"https?:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_the_readme_links_to_every_page(page):
    assert f"docs/{page.name}" in _LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))


def test_the_checks_would_notice():
    assert expanded("ghostkv/{files,config}/io.py") == ["ghostkv/files/io.py", "ghostkv/config/io.py"]
    assert _PATH.findall("see `ghostkv/nowhere/at_all.py`, or tests/none.") == [
        "ghostkv/nowhere/at_all.py",
        "tests/none",
    ]
    assert exists("ghostkv/files/io.py", False)
    assert not exists("ghostkv/nowhere/at_all.py", True)
    assert exists("ghostkv/codecs/mine.py", True)
    assert module_exists("ghostkv.files.io.write_text")
    assert not module_exists("ghostkv.files.io.no_such_thing")
    assert not module_exists("ghostkv.nowhere.at_all")
