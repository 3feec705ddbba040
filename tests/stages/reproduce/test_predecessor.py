"""The predecessor's rows: its own files where they are, and files made here."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ghostkv.files.errors import TableError
from ghostkv.stages.reproduce.jobs import RepeatPredecessor
from ghostkv.stages.reproduce.predecessor import (
    rank_measures,
    repeat_predecessor,
    row_measures,
    score_matrices,
)
from ghostkv.stages.reproduce.predecessor_files import predecessor_files
from ghostkv.stages.reproduce.schemas import PREDECESSOR_SCHEMA

PUBLISHED = Path(__file__).parents[4] / "shared/predecessor"


def repeated(files: list[str], folder: Path) -> pl.DataFrame:
    path = str(folder / "predecessor.parquet")
    repeat_predecessor(
        RepeatPredecessor.read({"seed": 42, "code": "f"}), {"files": files}, {"predecessor": path}
    )
    return pl.read_parquet(path)


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the predecessor's files are not here")
def test_the_published_rows_come_out_again(tmp_path):
    files = predecessor_files(str(PUBLISHED))
    chosen = [one for one in files if "1024_layer4_head4" in one or "512_layer0" in one]
    table = repeated([files[0], *chosen], tmp_path)
    cells = ["tokens", "layer", "head", "sketch_dim", "theta"]
    assert len(chosen) == 4
    assert table.select(cells).unique().height == 4 * 4 * 5
    assert table.filter(~pl.col("undecided"))["difference"].abs().max() < 1e-4
    # One of the overlaps differs by one key of eight, and rounding explains it.
    assert table.filter("undecided")["difference"].abs().max() == pytest.approx(1 / 8)
    middle = table.filter(tokens=1024, theta=0.05, measure="rank_correlation")["ours"].to_list()
    np.testing.assert_allclose(middle, [0.64544, 0.87273, 0.83712, 0.94995], atol=2e-5)


def make(folder: Path, **changes) -> list[str]:
    """Files as the predecessor's, of tensors that float16 holds exactly."""
    rng = np.random.default_rng(3)
    tensors = {name: rng.normal(size=(40, 16)).astype(np.float16) for name in "qk"}
    about = {"prompt": "A prompt that is long", "requested_context_length": 40, "layer_idx": 4, "head_idx": 8}
    np.savez(folder / "gpt2_40_layer4_head8.npz", **tensors, **about)
    seed = 42 + 1 * 10_000 + 40 * 10 + 4 * 100 + 8 * 1_000 + 8
    exact, sketched = score_matrices(*(tensors[name].astype(np.float32) for name in "qk"), 8, seed)
    rows = []
    for theta in (-1.0, 1.5):
        found = rank_measures(exact, sketched, seed) | row_measures(exact, sketched, theta) | changes
        row = {
            "prompt_idx": 1,
            "prompt_text": "A prompt that",
            "requested_context_length": 40,
            "layer_idx": 4,
            "head_idx": 8,
        }
        rows.append(row | {"sketch_dim": 8, "theta": theta} | found)
    pl.DataFrame(rows).write_csv(folder / "metrics.csv")
    return predecessor_files(str(folder))


def test_what_was_published_of_these_tensors_is_found_and_a_wrong_figure_is_not_excused(tmp_path):
    table = repeated(make(tmp_path), tmp_path)
    assert table.schema.names() == PREDECESSOR_SCHEMA.names
    assert table.height == 2 * 6
    assert table["difference"].abs().max() < 1e-12
    assert table.filter(theta=1.5, measure="elimination_rate")["ours"][0] > 0
    wrong = repeated(make(tmp_path, rank_correlation=0.99, top32_overlap=0.0), tmp_path)
    assert wrong.filter(pl.col("difference").abs() > 1e-4)["measure"].unique().sort().to_list() == [
        "rank_correlation",
        "top32_overlap",
    ]
    assert not wrong["undecided"].any()


def test_rows_are_eliminated_by_their_largest_estimate():
    exact, sketched = (
        np.array([[0.1, 0.9], [0.2, 0.3], [0.0, 0.1]]),
        np.array([[0.0, 0.4], [0.1, 0.2], [0.6, 0.7]]),
    )
    found = row_measures(exact, sketched, 0.5)
    assert found == {"elimination_rate": pytest.approx(2 / 3), "false_elimination_rate": 0.5}


def test_without_files_there_is_nothing_to_repeat(tmp_path):
    assert repeated([], tmp_path).height == 0
    assert predecessor_files(None) == []


@pytest.mark.parametrize("damage", ["csv", "npz", "other"])
def test_files_that_are_not_the_predecessors_are_refused(tmp_path, damage):
    files = make(tmp_path)
    if damage == "csv":
        Path(files[0]).write_text("a,b\n1,2\n")
    elif damage == "npz":
        Path(files[1]).write_bytes(b"PK")
    else:
        pl.read_csv(files[0]).with_columns(pl.lit(5).alias("layer_idx")).write_csv(files[0])
    with pytest.raises(TableError, match="predecessor: null"):
        repeated(files, tmp_path)
