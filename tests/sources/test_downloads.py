"""Downloads: verified, atomic, used again, and clear when they fail. No test touches the network."""

import pytest

from ghostkv.files.errors import ModelError, TextError
from ghostkv.files.io import sha256_file
from ghostkv.sources import downloads
from ghostkv.sources.downloads import check_sha256, fetch_hub, fetch_wheel, members, pip_download, read_member


@pytest.fixture
def wheel(tmp_path, make_wheel):
    return make_wheel(
        tmp_path / "index", {"tiny_texts/a.txt": "a", "tiny_texts/sub/b.txt": "b", "tiny_texts/c.py": "c"}
    )


def test_the_real_pip_fetches_a_wheel_without_its_dependencies(wheel, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    path = fetch_wheel("tiny-texts==1.0", sha256_file(wheel), tmp_path / "downloads")
    assert path == tmp_path / "downloads" / wheel.name
    assert sorted(file.name for file in path.parent.iterdir()) == [wheel.name]
    with pytest.raises(RuntimeError, match="No matching distribution"):
        pip_download("no-such-package==1.0", tmp_path)


def test_a_wheel_that_is_there_and_right_is_not_fetched_again(wheel, tmp_path, stub_pip):
    pip = stub_pip(wheel)
    for _ in range(2):
        fetch_wheel("tiny-texts==1.0", sha256_file(wheel), tmp_path / "downloads", pip=pip)
    assert pip.calls == 1


def test_spelling_of_the_package_name_does_not_matter(wheel, tmp_path, stub_pip):
    pip = stub_pip(wheel)
    for name in ("tiny-texts", "Tiny_Texts", "tiny.texts"):
        fetch_wheel(f"{name}==1.0", sha256_file(wheel), tmp_path / "downloads", pip=pip)
    assert pip.calls == 1


def test_a_damaged_file_is_fetched_again(wheel, tmp_path, stub_pip):
    folder = tmp_path / "downloads"
    folder.mkdir()
    (folder / wheel.name).write_bytes(b"half a whe")
    assert sha256_file(
        fetch_wheel("tiny-texts==1.0", sha256_file(wheel), folder, pip=stub_pip(wheel))
    ) == sha256_file(wheel)


def test_a_wrong_checksum_names_file_expected_and_found_and_leaves_nothing(wheel, tmp_path, stub_pip):
    with pytest.raises(TextError) as caught:
        fetch_wheel("tiny-texts==1.0", "0" * 64, tmp_path / "downloads", TextError, stub_pip(wheel))
    message = str(caught.value)
    assert all(part in message for part in (wheel.name, "0" * 64, sha256_file(wheel), "rerun"))
    assert list((tmp_path / "downloads").iterdir()) == []


def test_a_failing_pip_is_one_message_with_its_reason_and_nothing_else_is_used(tmp_path, stub_pip):
    with pytest.raises(
        ModelError, match=r"tiny-texts==1.0 cannot be fetched.*\n.*No matching distribution"
    ) as caught:
        fetch_wheel("tiny-texts==1.0", "0" * 64, tmp_path / "downloads", pip=stub_pip())
    assert "Nothing else is used in its place" in str(caught.value)
    assert list((tmp_path / "downloads").iterdir()) == []


def test_another_version_is_no_substitute(wheel, tmp_path, stub_pip):
    with pytest.raises(ModelError, match="no wheel of that name and version"):
        fetch_wheel("tiny-texts==2.0", sha256_file(wheel), tmp_path / "downloads", pip=stub_pip(wheel))


def test_members_cross_folders_and_exclusions_win(wheel):
    assert members(wheel, "tiny_texts/*.txt") == ["tiny_texts/a.txt", "tiny_texts/sub/b.txt"]
    assert members(wheel, "tiny_texts/*", ["*/sub/*", "*.py"]) == ["tiny_texts/a.txt"]
    assert read_member(wheel, "tiny_texts/sub/b.txt") == b"b"


def test_a_right_checksum_passes_in_silence(wheel):
    check_sha256(wheel, sha256_file(wheel), ModelError)


def raise_from_hub(monkeypatch, error):
    import huggingface_hub

    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)


def hub_error(name: str) -> Exception:
    from huggingface_hub import errors

    # Not through __init__, which wants a response of whichever HTTP library the hub's client uses.
    kind = getattr(errors, name)
    error = kind.__new__(kind)
    error.args = ("refused",)
    return error


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("RepositoryNotFoundError", ["no such repository", "hf auth login"]),
        ("GatedRepoError", ["gated", "Accept its terms"]),
        ("RevisionNotFoundError", ["no such revision", "revision: main"]),
    ],
)
def test_what_the_hub_refuses_is_told_apart(monkeypatch, name, words):
    raise_from_hub(monkeypatch, hub_error(name))
    with pytest.raises(ModelError) as caught:
        fetch_hub("a/b", "main", ["config.json"])
    assert all(word in str(caught.value) for word in ["model a/b at revision main", *words])


@pytest.mark.parametrize(("offline", "words"), [("", "cannot be reached"), ("1", "HF_HUB_OFFLINE is set")])
def test_no_connection_names_source_id_and_what_to_do(monkeypatch, offline, words):
    from huggingface_hub.errors import LocalEntryNotFoundError

    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    raise_from_hub(monkeypatch, LocalEntryNotFoundError("Name or service not known"))
    with pytest.raises(TextError) as caught:
        fetch_hub("a/b", "abc", ["x.parquet"], "dataset", TextError, advice="Or do without.")
    message = str(caught.value)
    command = "hf download a/b --revision abc --repo-type dataset"
    assert all(part in message for part in ("dataset a/b at revision abc", words, command, "Or do without."))


def test_the_hubs_log_level_is_put_back(monkeypatch):
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    raise_from_hub(monkeypatch, OSError("x"))
    with pytest.raises(ModelError):
        downloads.fetch_hub("a/b", "main", [])
    assert logging.get_verbosity() == before


def test_a_wheel_that_is_not_the_pinned_one_is_never_opened(tmp_path, make_wheel, stub_pip, monkeypatch):
    def opened(*args, **kwargs):
        raise AssertionError("an archive of a wrong checksum was opened")

    hostile = make_wheel(tmp_path / "index", {"tiny_texts/bomb": "0" * 10_000_000})
    monkeypatch.setattr(downloads.zipfile, "ZipFile", opened)
    with pytest.raises(ModelError, match="wrong checksum"):
        fetch_wheel("tiny-texts==1.0", "0" * 64, tmp_path / "downloads", pip=stub_pip(hostile))
    assert list((tmp_path / "downloads").iterdir()) == []


@pytest.mark.parametrize("member", ["../../escaped.gguf", "/tmp/escaped.gguf", "a/../../../escaped.gguf"])
def test_a_member_whose_name_leads_elsewhere_is_read_and_never_written_there(tmp_path, make_wheel, member):
    wheel = make_wheel(tmp_path / "index", {member: "content"})
    before = sorted(tmp_path.rglob("*"))
    assert read_member(wheel, member) == b"content"
    assert sorted(tmp_path.rglob("*")) == before
