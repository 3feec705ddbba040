"""Generated tensors on disk are read back by the lab's own readers."""

import numpy as np

from ghostkv.captures.capture_files import read_layer
from ghostkv.captures.generators import make
from ghostkv.stages.capture.tensor_import import layers_in
from ghostkv.stages.synthetic.files import main, write_capture


def test_a_capture_folder_is_read_back_and_its_outputs_are_attention(tmp_path):
    positions = np.arange(100, 128)
    options = {"layers": 2, "kv_heads": 2, "group": 2, "width": 16}
    write_capture(tmp_path, make({"name": "sinks"}, span=128), 0, "t", 128, positions, **options)
    capture = read_layer(tmp_path, 1)
    assert (capture.kv_heads, capture.heads, capture.tokens) == (2, 4, 128)
    assert not np.array_equal(capture.keys, read_layer(tmp_path, 0).keys)
    keys, values = (x[1, :112].astype(np.float64) for x in (capture.keys, capture.values))
    score = keys @ capture.queries[3, 11] * capture.scale
    mass = np.exp(score - score.max())
    np.testing.assert_allclose(capture.outputs[3, 11], mass @ values / mass.sum(), atol=2e-4)


def test_written_tensors_can_be_imported(tmp_path):
    main(
        ["anisotropic", str(tmp_path), "--tokens", "96", "--layers", "2", "--kv-heads", "2", "--width", "16"]
    )
    assert sorted(layers_in(str(tmp_path))) == [0, 1]
    with np.load(tmp_path / "layer01.npz") as file:
        assert file["q"].shape == (6, 96, 16)
        assert file["k"].shape == file["v"].shape == (2, 96, 16)
