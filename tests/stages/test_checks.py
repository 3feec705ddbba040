"""Every path of a config is looked at before anything runs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ghostkv.captures.positions import sample_positions
from ghostkv.codecs.quantiser import MAX_BITS
from ghostkv.codecs.records import CodecSpec
from ghostkv.config.capture import QueryBand
from ghostkv.config.experiment import load_config
from ghostkv.files.errors import ConfigError, GhostKVError, TextError
from ghostkv.sources.documents import TextSource
from ghostkv.stages.calibrated.jobs import CalibrateLayer
from ghostkv.stages.checks import check_files, check_sources
from ghostkv.stages.relations import check_stage
from ghostkv.stages.run import Run


def own(path) -> dict:
    return {"texts": {"custom": [{"domain": "law", "role": "held_out", "path": str(path)}]}}


def trace(path) -> dict:
    return {"trace": {"domain": "law", "path": str(path)}}


FAULTS = {
    "absent": lambda folder: folder / "absent.txt",
    "folder": lambda folder: folder,
    "device": lambda folder: Path("/dev/zero"),
    "symlink loop": lambda folder: made(folder / "loop", lambda path: path.symlink_to(path)),
    "fifo": lambda folder: made(folder / "fifo", os.mkfifo),
    "latin-1": lambda folder: written(folder, "Grüße".encode("latin-1")),
    "utf-16": lambda folder: written(folder, "Grüße".encode("utf-16")),
    "utf-32": lambda folder: written(folder, "Grüße".encode("utf-32")),
    "utf-16 without a mark": lambda folder: written(folder, b"t\x00e\x00x\x00t\x00"),
    "NUL": lambda folder: written(folder, b"text\nand \x00 more"),
    "escape": lambda folder: written(folder, b"\x1b[1mbold\x1b[0m"),
}


def made(path: Path, make) -> Path:
    make(path)
    return path


def written(folder: Path, raw: bytes) -> Path:
    (folder / "mine.txt").write_bytes(raw)
    return folder / "mine.txt"


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_what_is_no_text_file_is_refused_at_the_start(tmp_path, fault):
    path = fault(tmp_path)
    for raw, key in ((own(path), "texts.custom"), (trace(path), "trace.path")):
        with pytest.raises(TextError) as caught:
            check_files(load_config(raw))
        assert f"config: {key}: {path}, seen from" in str(caught.value)


def test_a_control_character_is_named_with_its_place(tmp_path):
    with pytest.raises(TextError, match=r"U\+0000 at character 9 \(line 2\)"):
        check_files(load_config(own(written(tmp_path, b"text\nand \x00 more"))))


def test_a_file_too_large_to_be_a_text_is_refused_unread(tmp_path):
    with open(tmp_path / "huge.txt", "wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(TextError, match="1,073,741,824 bytes, more than 268,435,456"):
        check_files(load_config(own(tmp_path / "huge.txt")))


def test_texts_are_not_looked_at_where_tensors_are_imported():
    folders = [{"folder": "/d", "domain": "a", "role": role} for role in ("codec", "threshold", "held_out")]
    check_files(load_config({"capture": {"import": folders}} | own("/nowhere") | trace("/nowhere")))


def test_questions_are_looked_for_at_the_start(tmp_path):
    retrieval = {"data": str(tmp_path / "none")}
    with pytest.raises(ConfigError, match=r"retrieval\.data is .*no such folder"):
        check_files(load_config({"retrieval": retrieval}))
    (tmp_path / "squad.json").write_text("{}")
    retrieval = {"data": str(tmp_path), "tasks": [{"task": "qa_squad"}, {"task": "vt"}]}
    check_files(load_config({"retrieval": retrieval}))
    retrieval["tasks"].append({"task": "cwe"})
    with pytest.raises(ConfigError, match=r"has no PaulGrahamEssays\.json"):
        check_files(load_config({"retrieval": retrieval}))


def test_a_tilde_is_a_home_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path, b"Text of somebody.")
    folders = [
        {"folder": "~/qkv", "domain": "a", "role": role} for role in ("codec", "threshold", "held_out")
    ]
    config = load_config(
        {"model": {"name": "m", "custom": {"source": "path", "path": "~/model"}}, "retrieval": {"data": "~/ruler"}}
        | own("~/mine.txt") | trace("~/mine.txt")
    )  # fmt: skip
    assert config.model.custom.path == f"{tmp_path}/model"
    assert config.retrieval.data == f"{tmp_path}/ruler"
    assert {config.texts.custom[0].path, config.trace.path} == {f"{tmp_path}/mine.txt"}
    assert load_config({"capture": {"import": folders}}).capture.import_[0].folder == f"{tmp_path}/qkv"
    check_files(load_config(own("~/mine.txt") | trace("~/mine.txt")))
    with pytest.raises(GhostKVError, match="~nobody-of-this-name"):
        check_files(load_config(own("~nobody-of-this-name/mine.txt")))


@pytest.mark.parametrize("part", ["../../etc", "..", "a/b", "a\\b", ".hidden", ""])
def test_a_split_is_no_way_out_of_the_data_set(part):
    with pytest.raises(ConfigError, match="split"):
        load_config(
            {"texts": {"custom": [{"domain": "law", "role": "held_out", "hub": "a/b", "split": part}]}}
        )


# What sections ask of one another, of the model, and of the draw


def run_of(raw: dict, head_dim: int = 64) -> Run:
    """A run of two layers that reads no text of this machine."""
    model = {"source": "hub", "id": "a/b", "layers": 2, "head_dim": head_dim}
    return Run.resolve({"model": {"name": "mine", "custom": model}} | raw, "resources")


@pytest.mark.parametrize("section", ["texts", "trace", "import", "model", "retrieval"])
def test_a_brace_in_a_name_is_refused_as_snakemake_takes_it_for_a_wildcard(tmp_path, section):
    folder = tmp_path / "a {text} 'b' $HOME"
    folder.mkdir()
    (folder / "mine.txt").write_text("words")
    (folder / "PaulGrahamEssays.json").write_text("{}")
    if section == "import":
        np.savez(
            folder / "layer00.npz", q=np.zeros((4096, 64), np.float16), k=np.zeros((4096, 64), np.float16)
        )
    if section == "model":
        (folder / "config.json").write_text('{"num_hidden_layers": 2, "head_dim": 64}')
        (folder / "tokenizer.json").write_text("{}")
        save_file({"lm_head.weight": np.zeros((2, 2), np.float32)}, folder / "model.safetensors")
    folders = [
        {"folder": str(folder), "domain": "a", "role": role} for role in ("codec", "threshold", "held_out")
    ]
    raw = {
        "texts": own(folder / "mine.txt"),
        "trace": trace(folder / "mine.txt"),
        "import": {"capture": {"import": folders}},
        "model": {"model": {"name": "m", "custom": {"source": "path", "path": str(folder)}}},
        "retrieval": {"retrieval": {"data": str(folder), "tasks": [{"task": "cwe"}]}},
    }[section]
    with pytest.raises(ConfigError, match=r"a \{text\} 'b' \$HOME.* has a brace in its name"):
        Run.resolve(raw, "resources")


WIDTHS = {
    "loki": ({"name": "loki", "dims": 65}, "at most 64"),
    "sparq": ({"name": "sparq", "components": 1024}, "at most 64"),
    "double_sparsity": ({"name": "double_sparsity", "channels": 65}, "at most 64"),
    "pq": ({"name": "pq", "parts": 12}, "Write: parts: 8"),
}


@pytest.mark.parametrize(("entry", "says"), WIDTHS.values(), ids=WIDTHS.keys())
def test_options_that_keys_are_too_narrow_for_are_refused_at_the_start(entry, says):
    with pytest.raises(ConfigError, match=f"peers.selectors has {entry['name']}[\\s\\S]*{says}"):
        run_of({"peers": {"selectors": [entry]}}, 64)
    policy = {"label": "one", "policy": "selector", "selector": entry, "ratio": 0.2}
    with pytest.raises(ConfigError, match=r"retrieval\.policies one"):
        run_of({"retrieval": {"policies": [policy]}}, 64)


def test_one_config_means_as_many_bits_of_keys_of_every_width():
    for width in (64, 80, 128, 256):
        run = run_of({}, width)
        sizes = {spec.code_bytes * 8 / width for spec in run.codecs}
        assert sizes == {0.5, 1, 2, 4}
        assert run.headline_spec() == CodecSpec("transform_code", width // 8)
        assert run.headline_spec(16) == CodecSpec("transform_code", 2)


SIZES = {
    "sketch": lambda bits: {"sketch": {"codecs": [{"name": "transform_code", "bits": [1, *bits]}]}},
    "calibrated": lambda bits: {"calibrated": {"bits": bits}},
    "synthetic": lambda bits: {"synthetic": {"head_dim": 16, "codecs": [{"name": "pca", "bits": bits}]}},
    "store": lambda bits: {"store": {"head_dim": 16, "bits": bits[0]}},
}


@pytest.mark.parametrize("section", SIZES)
def test_sizes_that_are_no_byte_or_the_same_bytes_are_refused_at_the_start(section):
    made = SIZES[section]
    with pytest.raises(
        ConfigError, match=rf"{section}.* has bits: 0\.25, which is 4 bits for .* 16.*\n.*Write: bits: 0\.5"
    ):
        run_of(made([0.25]), 16)
    run_of(made([0.5]), 16)
    if section != "store":
        with pytest.raises(ConfigError, match=rf"{section}.* has bits: 2 and 2\.2, which are both 4 bytes"):
            run_of(made([2, 2.2]), 16)


def test_a_calibrated_size_that_is_the_headlines_record_is_measured_once():
    run = run_of({}, 16)
    assert [spec.code_bytes for spec in CalibrateLayer.of(run, "00").sizes] == [2, 1, 4]


def test_no_codec_holds_more_bits_than_a_config_may_ask_for():
    most = {"codecs": [{"name": "transform_code", "bits": [MAX_BITS]}]}
    assert load_config({"frontier": {"headline": {"bits": MAX_BITS}}, "sketch": most})
    with pytest.raises(ConfigError, match=r"sketch\.codecs\[0\]\.bits\[0\] is 8\.1.*less than or equal to 8"):
        load_config({"sketch": {"codecs": [{"name": "transform_code", "bits": [8.1]}]}})
    with pytest.raises(ConfigError, match=r"peers\.selectors \(ghost\): bits is 8\.1"):
        load_config({"peers": {"selectors": [{"name": "ghost", "bits": 8.1}]}})


OLD = {
    "sketch": ({"sketch": {"codecs": [{"name": "pca", "bytes": [8, 10]}]}}, "sketch.codecs[0].bytes", "bits: [1, 1.25]"),
    "headline": ({"frontier": {"headline": {"bytes": 4}}}, "frontier.headline.bytes", "bits: 0.5"),
    "calibrated": ({"calibrated": {"bytes": [4]}}, "calibrated.bytes", "bits: [0.5]"),
    "store": ({"store": {"record_bytes": 9}}, "store.record_bytes", "bits: 1"),
    "peers": ({"peers": {"selectors": [{"name": "ghost", "code_bytes": 8}]}}, "peers.selectors has ghost with code_bytes", "bits: 1"),
    "policy": (
        {"retrieval": {"policies": [{"label": "a", "policy": "ghost", "ratio": 0.3, "code_bytes": 16}]}},
        "retrieval.policies[0].code_bytes", "bits: 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("raw", "key", "write"), OLD.values(), ids=OLD)
def test_a_size_in_bytes_is_refused_once_with_the_bits_to_write(raw, key, write):
    with pytest.raises(ConfigError) as caught:
        load_config(raw)
    assert str(caught.value).count("Write:") == 1
    assert key in str(caught.value)
    assert f"Write: {write} " in str(caught.value)


def test_a_headline_beyond_the_last_query_that_is_drawn_is_refused_at_the_start():
    bands = [{"start": 256, "stop": 4096, "count": 24}]
    names = run_of({}).texts
    counts = {"threshold": 24, "held_out": 6}
    last = min(
        sample_positions([QueryBand(**bands[0] | {"count": counts[entry["role"]]})], text, 0).max()
        for text, entry in names.items()
        if entry["role"] != "codec"
    )
    run_of({"capture": {"query_bands": bands}, "frontier": {"headline_start": int(last)}})
    with pytest.raises(ConfigError, match=f"headline_start is {last + 1}.*is at {last}"):
        run_of({"capture": {"query_bands": bands}, "frontier": {"headline_start": int(last) + 1}})


DENSE = {
    "retrieval": {"policies": [{"label": "one", "policy": "ghost", "ratio": 0.3, "dense_layers": [0, 2]}]}
}
STAGES = {
    "benchmark": ({"benchmark": {"tokens": 4097}}, r"benchmark\.tokens is 4097"),
    "historical": ({"historical": {"passage_tokens": 4097}}, r"historical\.passage_tokens"),
    "historical prompts": (
        {"historical": {"prompt_tokens": [54, 5000]}},
        r"historical\.prompt_tokens is 5000",
    ),
    "synthetic": (
        {"synthetic": {"tradeoff": {"contexts": [8192, 300]}}},
        r"tradeoff\.contexts is 300[\s\S]*contexts: 336",
    ),
    "decode": ({"decode": {"synthetic": {"tokens": 300}}}, r"decode\.synthetic\.tokens is 300"),
    "quality": ({"capture": {"layers": [0]}}, r"capture\.layers records 1 of the model's 2 layers"),
    "speed steps": ({"speed": {"steps": {"contexts": [16384]}}}, r"speed\.steps\.contexts has 16384"),
    "speed count": ({"speed": {"steps": {"count": 4000}}}, r"4000 steps end it"),
    "retrieval": ({"capture": {"layers": [1]}}, r"capture\.layers leaves out \[0\]"),
    "retrieval dense": (DENSE, r"retrieval\.policies one has dense_layers \[2\]"),
}


@pytest.mark.parametrize(
    ("stage", "raw", "says"), [(name.split()[0], *entry) for name, entry in STAGES.items()]
)
def test_what_a_stage_asks_of_others_is_checked_where_it_is_asked_for(stage, raw, says):
    run = run_of(raw, 64)
    with pytest.raises(ConfigError, match=says):
        check_stage(run, stage)
    check_stage(run_of({}, 64), stage)


def test_questions_need_records_of_layers_that_see_the_whole_text_alone():
    # Of tiny-gemma2, layer 0 slides.
    model = {"model": {"name": "tiny-gemma2"}}
    check_stage(run_of(model | {"capture": {"layers": [1]}}, 16), "retrieval")
    with pytest.raises(ConfigError, match=r"leaves out \[1\][\s\S]*layers: \[0, 1\]"):
        check_stage(run_of(model | {"capture": {"layers": [0]}}, 16), "retrieval")


def test_folders_of_different_heads_are_refused(tmp_path):
    folders = []
    for role, heads in (("codec", (0, 4)), ("threshold", (0, 4)), ("held_out", (0, 8))):
        (tmp_path / role).mkdir()
        folders.append({"folder": str(tmp_path / role), "domain": "a", "role": role})
        for head in heads:
            q, k = np.zeros((2, 4, 64), np.float32)
            np.savez(tmp_path / role / f"L0H{head}.npz", q=q, k=k)
    with pytest.raises(
        ConfigError, match=r"folders of different heads: .*codec has files for heads \[0, 4\].*\[0, 8\]"
    ):
        Run.resolve({"capture": {"import": folders}}, "resources")


SHAPES = {
    "heads": {"q": (4, 128, 64), "k": (1, 128, 64)},
    "KV heads": {"q": (2, 128, 64), "k": (2, 128, 64)},
    "width": {"q": (2, 128, 32), "k": (1, 128, 32)},
    "values": {"q": (2, 128, 64), "k": (1, 128, 64), "v": (1, 128, 64)},
    "tokens": {"q": (2, 100, 64), "k": (1, 100, 64)},
    "no keys": {"q": (2, 128, 64)},
}


@pytest.mark.parametrize("odd", SHAPES)
def test_folders_that_do_not_fit_one_model_are_refused_at_the_start(tmp_path, odd):
    folders, bands = [], [{"start": 100, "stop": 128, "count": 8}]
    for role in ("codec", "threshold", "held_out"):
        shapes = SHAPES[odd] if role == "held_out" else {"q": (2, 128, 64), "k": (1, 128, 64)}
        (tmp_path / role).mkdir()
        np.savez(
            tmp_path / role / "layer0.npz",
            **{name: np.zeros(shape, np.float16) for name, shape in shapes.items()},
        )
        folders.append({"folder": str(tmp_path / role), "domain": "a", "role": role})
    raw = {"capture": {"tokens": 128, "query_bands": bands}, "frontier": {"headline_start": 100}}
    says = {"tokens": "held_out has 100 tokens", "no keys": "no tensor `k`"}.get(
        odd, "folders of different shapes"
    )
    with pytest.raises(GhostKVError, match=says):
        Run.resolve(raw | {"capture": raw["capture"] | {"import": folders}}, "resources")
    raw["capture"]["import"] = [{**folders[0], "role": folder["role"]} for folder in folders]
    assert Run.resolve(raw, "resources").layers == (0,)


def test_options_are_held_against_the_width_of_imported_tensors(tmp_path):
    np.savez(tmp_path / "layer0.npz", q=np.zeros((4096, 32), np.float16), k=np.zeros((4096, 32), np.float16))
    folders = [
        {"folder": str(tmp_path), "domain": "a", "role": role} for role in ("codec", "threshold", "held_out")
    ]
    raw = {"capture": {"import": folders}, "peers": {"selectors": [{"name": "loki", "dims": 33}]}}
    with pytest.raises(ConfigError, match="dims: 33, but keys have head_dim: 32"):
        Run.resolve(raw, "resources")


def test_a_domain_of_local_files_without_any_is_refused(tmp_path):
    source = {"mine": TextSource(kind="files", path=str(tmp_path / "*.txt"))}
    with pytest.raises(ConfigError, match=r"texts\.domains names mine.*matches no file"):
        check_sources(source)
    written(tmp_path, b"words")
    check_sources(source)
