"""Imported tensors become captures like any other; malformed ones are refused with file, key and fix."""

from __future__ import annotations

import io
import json
import pickle
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import safetensors.numpy

from ghostkv.captures.capture_files import read_layer, read_layers_table
from ghostkv.files.errors import CaptureError
from ghostkv.stages.capture.imported import import_tensors
from ghostkv.stages.capture.jobs import ImportTensors
from ghostkv.stages.capture.tensor_import import layers_in, load_layer

TOKENS, WIDTH = 64, 8
RNG = np.random.default_rng(0)


def tensor(*heads: int, tokens: int = TOKENS, width: int = WIDTH, dtype=np.float32) -> np.ndarray:
    return RNG.normal(size=(*heads, tokens, width)).astype(dtype)


def write(path, **tensors) -> None:
    if path.suffix == ".npz":
        np.savez(path, **tensors)
    else:
        arrays = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
        safetensors.numpy.save_file(arrays, path)


def run(source, out, scale=None, tokens=TOKENS, layers=(0,)):
    params = {
        "text": "mine",
        "folder": str(source),
        "domain": "lab",
        "role": "held_out",
        "scale": scale,
        "tokens": tokens,
        "layers": layers,
        "query_bands": [{"start": 16, "stop": tokens, "count": 10}],
        "seed": 0,
    }
    outputs = {name: str(out / f"{name}.parquet") for name in ("kv", "queries", "layers")}
    import_tensors(ImportTensors.read(params), {}, outputs)
    return out


@pytest.fixture
def source(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_file_with_all_heads_becomes_a_layer(source, tmp_path, suffix, dtype):
    q, k, v = tensor(4, dtype=dtype), tensor(2, dtype=dtype), tensor(2, width=12, dtype=dtype)
    write(source / f"layer03{suffix}", q=q, k=k, v=v)
    capture = read_layer(run(source, tmp_path / "out", layers=[3]), 3)
    assert (capture.heads, capture.kv_heads, capture.group) == (4, 2, 2)
    np.testing.assert_array_equal(capture.keys, k.astype(np.float16))
    np.testing.assert_array_equal(capture.values, v.astype(np.float16))
    np.testing.assert_array_equal(capture.queries, q[:, capture.positions].astype(np.float32))
    assert capture.scale == WIDTH**-0.5


def test_outputs_are_causal_attention_over_what_is_stored(source, tmp_path):
    write(source / "L0.npz", q=tensor(4), k=tensor(2), v=tensor(2))
    capture = read_layer(run(source, tmp_path / "out", scale=0.7), 0)
    assert capture.scale == 0.7
    for head in range(4):
        keys, values = (x[head // 2].astype(np.float64) for x in (capture.keys, capture.values))
        for query, output, last in zip(
            capture.queries[head], capture.outputs[head], capture.positions, strict=True
        ):
            weights = np.exp(0.7 * keys[: last + 1] @ query)
            np.testing.assert_allclose(
                output, weights @ values[: last + 1] / weights.sum(), rtol=1e-4, atol=1e-5
            )


NAMES = [
    "layer03_head{}",
    "L3H{}",
    "model-layer3-head{}",
    "l03_h{}_run",
    "L40S_layer03_head{}",
    "A100.layer3head{}",
]


@pytest.mark.parametrize("name", [*NAMES, "H100_layers.3.heads.{}", "gpt2_512_layer3_head{}_v2"])
def test_layer_and_head_are_read_from_the_name(source, name):
    for head in (1, 0):
        write(
            source / f"{name.format(head)}.npz",
            q=np.full((TOKENS, WIDTH), head, np.float32),
            k=tensor(),
            v=tensor(),
        )
    layer = load_layer(layers_in(source), 3)
    assert layer.queries[:, 0, 0].tolist() == [0, 1]
    assert layer.keys.shape == (2, TOKENS, WIDTH)


def test_scalars_in_the_file_win_over_its_name(source):
    write(source / "layer9_head9.npz", q=tensor(), k=tensor(), layer_idx=np.int64(2), head_idx=np.array([0]))
    assert list(layers_in(source)) == [2]
    assert load_layer(layers_in(source), 2).keys.shape == (1, TOKENS, WIDTH)


def test_without_values_there_are_no_outputs(source, tmp_path):
    write(source / "layer0.npz", q=tensor(2), k=tensor(2))
    out = run(source, tmp_path / "out")
    capture = read_layer(out, 0)
    assert capture.values is None
    assert capture.outputs is None
    row = read_layers_table(out).row(0, named=True)
    assert row["value_dim"] == 0
    assert row["max_relative_error"] is None
    assert row["storage_relative_error"] is None


def test_there_is_no_model_output_to_prove_against_and_the_table_says_so(source, tmp_path):
    write(source / "layer0.npz", q=tensor(2), k=tensor(2), v=tensor(2))
    row = read_layers_table(run(source, tmp_path / "out")).row(0, named=True)
    assert row["max_relative_error"] is None
    assert row["recomputed"] == 0
    assert 0 < row["storage_relative_error"] < 1e-2


def test_longer_tensors_are_cut_to_the_context(source, tmp_path):
    k = tensor(1)
    write(source / "layer0.npz", q=tensor(1), k=k)
    capture = read_layer(run(source, tmp_path / "out", tokens=32), 0)
    np.testing.assert_array_equal(capture.keys, k[:, :32].astype(np.float16))


def test_the_same_import_twice_gives_the_same_bytes(source, tmp_path):
    write(source / "layer0.safetensors", q=tensor(2), k=tensor(1), v=tensor(1))
    first, second = run(source, tmp_path / "a/text"), run(source, tmp_path / "b/text")
    for name in ("kv", "queries", "layers"):
        assert (first / f"{name}.parquet").read_bytes() == (second / f"{name}.parquet").read_bytes()


Q, K = tensor(2), tensor(2)
MALFORMED = {
    "no q": ({"k": K}, r"layer0.npz: no tensor `q`; it holds \['k'\]"),
    "no k": ({"q": Q}, "no tensor `k`"),
    "float64": ({"q": Q.astype(np.float64), "k": K}, "`q` is of type float64. Accepted: float16, float32"),
    "integers": ({"q": Q, "k": K.astype(np.int8)}, "`k` is of type int8"),
    "four axes": ({"q": Q[None], "k": K}, r"`q` has shape \[1, 2, 64, 8\]. Accepted: \[tokens, head_dim\]"),
    "one axis": ({"q": Q, "k": K[0, 0]}, r"`k` has shape \[8\]"),
    "empty": ({"q": Q[:, :0], "k": K[:, :0]}, r"`q` has shape \[2, 0, 8\]"),
    "other width": ({"q": Q, "k": K[..., :4]}, r"q and k of shapes \[2, 64, 8\] and \[2, 64, 4\]"),
    "other length": ({"q": Q, "k": K[:, :32]}, "the same tokens and head_dim"),
    "heads that do not divide": ({"q": tensor(3), "k": K}, "q has 3 heads and k has 2"),
    "values of other heads": ({"q": Q, "k": K, "v": tensor(1)}, r"v of shape \[1, 64, 8\] beside k"),
    "values of other tokens": ({"q": Q, "k": K, "v": K[:, :10]}, r"v of shape \[2, 10, 8\]"),
    "nan": ({"q": Q, "k": np.where(K > 2, np.nan, K)}, "`k` holds NaN or infinity"),
    "beyond float16": ({"q": Q, "k": K * 1e6}, "`k` reaches .* beyond float16"),
    "misspelt values": ({"q": Q, "k": K, "values": K}, r"tensors \['values'\] are not known"),
    "fractional layer": ({"q": Q, "k": K, "layer_idx": np.float32(1.5)}, "`layer_idx` is of type float32"),
    "negative head": ({"q": Q, "k": K, "head_idx": np.int64(-1)}, "`head_idx`"),
    "pickled": ({"q": Q, "k": np.array([{"a": 1}], dtype=object)}, "`k` cannot be read.*never unpickled"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_tensors_are_refused_and_nothing_is_left(source, tmp_path, case):
    tensors, message = MALFORMED[case]
    write(source / "layer0.npz", **tensors)
    with pytest.raises(CaptureError, match=message) as error:
        run(source, tmp_path / "out")
    assert str(source / "layer0.npz") in str(error.value)
    assert not list((tmp_path / "out").glob("*"))


def test_bfloat16_is_refused_with_its_name(source):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    save_file(
        {"q": torch.zeros(4, 8, dtype=torch.bfloat16), "k": torch.zeros(4, 8)}, source / "layer0.safetensors"
    )
    with pytest.raises(CaptureError, match="`q` is of type BF16"):
        load_layer(layers_in(source), 0)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("damage", [b"", b"not an archive", None])
def test_a_damaged_file_is_refused_by_name(source, suffix, damage):
    path = source / f"layer0{suffix}"
    write(path, q=Q, k=K)
    path.write_bytes(path.read_bytes()[:-100] if damage is None else damage)
    with pytest.raises(CaptureError, match=rf"layer0\{suffix}: not a readable"):
        load_layer(layers_in(source), 0)


def test_a_flipped_byte_inside_an_npz_is_refused(source):
    path = source / "layer0.npz"
    np.savez_compressed(path, q=Q, k=K)
    content = bytearray(path.read_bytes())
    for place in range(200, len(content) // 2, 97):
        content[place] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(CaptureError, match="layer0.npz"):
        load_layer(layers_in(source), 0)


def test_a_folder_that_is_missing_or_empty_is_refused(source, tmp_path):
    with pytest.raises(CaptureError, match="no such folder"):
        layers_in(tmp_path / "nowhere")
    (source / "readme.txt").write_text("nothing here")
    with pytest.raises(CaptureError, match="no .npz or .safetensors file"):
        layers_in(source)


def test_a_file_that_does_not_say_its_layer_is_refused(source):
    write(source / "tensors.npz", q=Q, k=K)
    with pytest.raises(CaptureError, match="neither a scalar `layer_idx` nor a layer in the file name"):
        layers_in(source)


def test_a_missing_layer_is_refused_with_those_there_are(source, tmp_path):
    write(source / "layer2.npz", q=Q, k=K)
    with pytest.raises(CaptureError, match=r"no layer 5. Found: layers \[2\]"):
        run(source, tmp_path / "out", layers=[2, 5])
    assert not list((tmp_path / "out").glob("*"))


def test_too_few_tokens_are_refused(source, tmp_path):
    write(source / "layer0.npz", q=Q, k=K)
    with pytest.raises(CaptureError, match="has 64 tokens, fewer than capture.tokens: 100"):
        run(source, tmp_path / "out", tokens=100)


@pytest.mark.parametrize(
    "name", ["L40_layer05", "layer1_layer2", "layer5000", "layer3_head1_head2", "L3H5_head6"]
)
def test_a_name_that_says_two_things_is_refused(source, name):
    write(source / f"{name}.npz", q=Q[0], k=K[0])
    with pytest.raises(CaptureError, match=f"{name}.npz: the name says"):
        layers_in(source)


@pytest.mark.parametrize("name", ["L40S", "H100", "small5", "autol5", "layer5x", "xlayer5", "head3"])
def test_a_number_inside_another_word_is_no_layer(source, name):
    write(source / f"{name}.npz", q=Q[0], k=K[0])
    with pytest.raises(CaptureError, match="nor a layer in the file name"):
        layers_in(source)


@pytest.mark.parametrize("name", ["H100_layer05", "ahead5_layer05", "layer05_h100x"])
def test_a_number_inside_another_word_is_no_head(source, name):
    write(source / f"{name}.npz", q=Q[0], k=K[0])
    assert [(part.layer, part.head) for part in layers_in(source)[5]] == [(5, None)]


def test_some_heads_of_a_model_are_enough(source, tmp_path):
    for layer in (0, 4):
        for head in (8, 0, 4):
            q = np.full((TOKENS, WIDTH), head, np.float16)
            own = {"layer_idx": np.int64(layer), "head_idx": np.int64(head), "model_id": np.array("gpt2")}
            write(source / f"gpt2_{layer}_{head}.npz", q=q, k=tensor(dtype=np.float16), **own)
    out = run(source, tmp_path / "out", layers=(0, 4))
    found = read_layer(out, 4)
    assert found.queries[:, 0, 0].tolist() == found.numbers.tolist() == found.kv_numbers.tolist() == [0, 4, 8]
    for name, column in (("queries", "head"), ("queries", "kv_head"), ("kv", "kv_head")):
        assert pl.read_parquet(out / f"{name}.parquet")[column].unique().sort().to_list() == [0, 4, 8]


def test_a_head_twice_names_both_files(source):
    for name in ("a", "b"):
        write(source / f"{name}.npz", q=Q[0], k=K[0], layer_idx=np.int64(0), head_idx=np.int64(4))
    with pytest.raises(CaptureError, match=r"b\.npz: layer 0 has head 4 in a\.npz too"):
        load_layer(layers_in(source), 0)


def test_layers_of_different_heads_are_refused(source):
    for layer, head in ((0, 0), (0, 4), (1, 0)):
        write(source / f"L{layer}H{head}.npz", q=Q[0], k=K[0])
    with pytest.raises(CaptureError, match=r"layer 1 has no file for head 4"):
        layers_in(source)


# Files that are made to do harm


class Payload:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["k", "layer_idx", "head_idx", "extra", "../../k"])
def test_a_pickle_is_never_loaded(source, tmp_path, name):
    arrays = {"q": Q, "k": K} | {name: np.array([[Payload(tmp_path / "mark")]], dtype=object)}
    np.savez(source / "layer0.npz", **arrays)
    with pytest.raises(CaptureError, match=r"layer0\.npz: .* cannot be read .*never unpickled"):
        load_layer(layers_in(source), 0)
    assert not (tmp_path / "mark").exists()


def test_a_pickle_under_the_name_of_an_archive_is_refused(source, tmp_path):
    (source / "layer0.npz").write_bytes(pickle.dumps(Payload(tmp_path / "mark")))
    np.save(source / "single.npy", np.array([Payload(tmp_path / "mark")], dtype=object))
    (source / "single.npy").rename(source / "layer1.npz")
    with pytest.raises(CaptureError, match="not a readable"):
        layers_in(source)
    (source / "layer0.npz").unlink()
    with pytest.raises(CaptureError, match="not a readable"):
        layers_in(source)
    assert not (tmp_path / "mark").exists()


def npy(shape, dtype="<f2", data=b"") -> bytes:
    """An .npy file whose head may claim what it does not hold."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": dtype})
    return file.getvalue() + data


BOMBS = {
    "more than it holds": npy((1 << 20, 1 << 20)),
    "less than it holds": npy((4, 8), data=bytes(1000)),
    "overflow": npy((1 << 40, 1 << 40)),
    "folded zeros": npy((1, 1 << 20, 64), data=bytes(1 << 27)),
    "code for a shape": b"\x93NUMPY\x01\x00\x40\x00"
    + b"{'shape': __import__('os').getpid(), 'descr': '<f2'}".ljust(64),
    "another format": b"\x93NUMPY\x09\x00" + bytes(100),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_an_array_that_is_not_what_it_states_is_refused_before_memory_is_taken(source, bomb):
    with zipfile.ZipFile(source / "layer0.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("q.npy", npy((4, 8), data=bytes(64)))
        archive.writestr("k.npy", bomb)
    tracemalloc.start()
    with pytest.raises(CaptureError, match=r"layer0\.npz: `k` cannot be read"):
        load_layer(layers_in(source), 0)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(source):
    with zipfile.ZipFile(source / "layer0.npz", "w") as archive:
        for name in ("q", "k", "k"):
            archive.writestr(f"{name}.npy", npy((4, 8), data=bytes(64)))
    with pytest.raises(CaptureError, match="two members of one name"):
        layers_in(source)


def test_names_of_members_are_no_paths(source, tmp_path):
    with zipfile.ZipFile(source / "layer0.npz", "w") as archive:
        for name in ("q", "k", "../../../out", "/abs"):
            archive.writestr(f"{name}.npy", npy((4, 8), data=bytes(64)))
    with pytest.raises(CaptureError, match=r"tensors \['\.\./\.\./\.\./out', '/abs'\] are not known"):
        load_layer(layers_in(source), 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


@pytest.mark.parametrize("ends", [[0, 1 << 62], [64, 0], [0, 10**6]])
def test_offsets_outside_a_safetensors_file_are_refused(source, ends):
    head = json.dumps({"k": {"dtype": "F16", "shape": [4, 8], "data_offsets": ends}}).encode()
    (source / "layer0.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + bytes(64))
    with pytest.raises(CaptureError, match=r"layer0\.safetensors: not a readable"):
        layers_in(source)


def test_heads_of_one_layer_must_be_alike(source):
    write(source / "L0H0.npz", q=Q[0], k=K[0], v=K[0])
    write(source / "L0H1.npz", q=Q[1], k=K[1])
    with pytest.raises(CaptureError, match="L0H1.npz: holds"):
        load_layer(layers_in(source), 0)


def test_two_whole_files_of_one_layer_are_refused(source):
    for name in ("layer0_a", "layer0_b"):
        write(source / f"{name}.npz", q=Q, k=K)
    with pytest.raises(CaptureError, match="layer 0 has 2 file"):
        load_layer(layers_in(source), 0)


def test_layers_of_different_widths_are_refused_and_nothing_is_left(source, tmp_path):
    write(source / "layer0.npz", q=Q, k=K)
    write(source / "layer1.npz", q=Q[..., :4], k=K[..., :4])
    with pytest.raises(CaptureError, match="layer 1 has key and value widths"):
        run(source, tmp_path / "out", layers=[0, 1])
    assert not list((tmp_path / "out").glob("*"))
