"""What the pipeline left behind, as the report reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from ghostkv.codecs.sizes import code_bytes
from ghostkv.files.errors import TableError
from ghostkv.files.seals import SealedParquet, damaged
from ghostkv.models.manifest import read_manifest
from ghostkv.report.schemas import SCHEMAS

if TYPE_CHECKING:
    from ghostkv.report.jobs import WriteReport

ORACLE = "exact"
# The size that figures of calibrated FER are quoted at: chosen on other texts than those of a run, see docs/calibrated.md.
FER_BITS = 1.25


class Results:
    """Tables by name, read once, and the design that the report leads with.

    Parameters
    ----------
    tables : mapping of str to path or list of paths
        `stage_table` to Parquet file (`model_manifest`: JSON). `capture_layers` is a list, one file a
        capture.

    Attributes
    ----------
    figures : dict
        The headline figures of the report, as `headline.json` has them, once they are measured.
    power : DataFrame
        Which differences their texts could not have shown, likewise; see `ghostkv.report.power`.
    """

    def __init__(self, tables: Mapping[str, str | Sequence[str]], job: WriteReport):
        self.job, self.config = job, job.config
        self._paths = {name: [path] if isinstance(path, str) else list(path) for name, path in tables.items()}
        self._read: dict[str, pl.DataFrame] = {}
        self.figures: dict[str, dict[str, Any]] = {}
        self.power = pl.DataFrame()

    def has(self, name: str) -> bool:
        """Whether the pipeline made the table `stage.table`."""
        return bool(self._paths.get(_key(name)))

    def names(self) -> list[str]:
        """Every Parquet table that the report was given, as `stage.table`."""
        given = (key for key, paths in self._paths.items() if paths and paths[0].endswith(".parquet"))
        return [key.replace("_", ".", 1) for key in given]

    def verify(self) -> None:
        """Raise TableError where a table is not as it was written, also one of which only a part is shown."""
        for name in self.names():
            for file in self._open(name):
                file.verify()

    def rows(self, name: str) -> int:
        """How many rows the table has, over all its files."""
        return sum(file.footer.num_rows for file in self._open(name))

    def path(self, name: str) -> str:
        """Where the table is; for many files, the pattern `stage/*/table`."""
        paths = self._files(name)
        if len(paths) == 1:
            return paths[0]
        first = Path(paths[0])
        return str(first.parent.parent / "*" / first.name)

    def table(self, name: str) -> pl.DataFrame:
        """The table `stage.table`.

        Several files become one table, with a column `text` from their metadata.

        Raises
        ------
        TableError
            The pipeline did not make it, or it cannot be read.
        """
        if name not in self._read:
            files = self._open(name)
            frames = [pl.from_arrow(file.table()) for file in files]
            if len(files) > 1 or name == "capture.layers":
                frames = [
                    frame.with_columns(pl.lit(file.metadata.get("text", file.path.parent.name)).alias("text"))
                    for frame, file in zip(frames, files, strict=True)
                ]
            self._read[name] = pl.concat(frames, how="vertical")
        return self._read[name]

    def scan(self, name: str) -> pl.LazyFrame:
        """The table `stage.table`, of which only the wanted rows and columns are read."""
        (file,) = self._open(name)
        file.verify()
        return pl.scan_parquet(file.path)

    def manifest(self) -> dict[str, Any]:
        """What is known of the model; empty for imported tensors."""
        if not self.has("model.manifest"):
            return {}
        path = self.path("model.manifest")
        found, captured = read_manifest(Path(path).parent), self.metadata("capture.layers")
        if found["weight_sha256"] != captured.get("weight_sha256"):
            raise damaged(path, f"it is of model {found['model']}, and captured was {captured.get('model')}")
        return found

    def metadata(self, name: str) -> dict[str, str]:
        """Provenance stored in a table."""
        return self._open(name)[0].metadata

    def _open(self, name: str) -> list[SealedParquet]:
        stage, _, table = name.partition(".")
        return [SealedParquet(path, SCHEMAS[stage][table]) for path in self._files(name)]

    def _files(self, name: str) -> list[str]:
        if not self.has(name):
            raise TableError(
                f"report: the table {name} was not given; the report has "
                f"{', '.join(sorted(self._paths)) or 'no tables'}. Write: add {_key(name)} to "
                "`report_tables` in ghostkv/report/jobs.py."
            )
        return self._paths[_key(name)]

    @property
    def frontier(self) -> dict[str, Any]:
        """The config section `frontier`."""
        return self.config["frontier"]

    @property
    def headline(self) -> dict[str, Any]:
        """`codec`, `bits` a coordinate, `bytes` of code and `rule` of the design that the report leads with."""
        headline = self.frontier["headline"]
        return headline | {"bytes": self.bytes_of(headline["bits"])}

    @property
    def fer_bytes(self) -> int:
        """Bytes of code that figures of calibrated FER are quoted at."""
        return self.bytes_of(FER_BITS)

    def bytes_of(self, bits: float, head_dim: int | None = None) -> int:
        """Bytes of code at so many bits a coordinate: of the measured keys, where no width is given."""
        return code_bytes(bits, head_dim or self.job.head_dim)

    def size(self, bits: float, head_dim: int | None = None) -> str:
        """A size in words: `1 bit a coordinate (8 bytes)`."""
        unit = "bit" if bits == 1 else "bits"
        return f"{bits:g} {unit} a coordinate ({self.bytes_of(bits, head_dim)} bytes)"

    @property
    def design(self) -> str:
        """That design in words."""
        return self.design_at(self.job.head_dim)

    def design_at(self, head_dim: int) -> str:
        """That design in words, for keys of another width."""
        return f"{words(self.headline['codec'])} of {self.size(self.headline['bits'], head_dim)}"

    @property
    def is_rule(self) -> pl.Expr:
        """Rows of the headline rule."""
        return pl.col("rule") == self.headline["rule"]

    @property
    def is_record(self) -> pl.Expr:
        """Rows of the headline codec at its size, under any rule."""
        return self.is_record_at(self.job.head_dim)

    def is_record_at(self, head_dim: int) -> pl.Expr:
        """The same of keys of another width."""
        size = self.bytes_of(self.headline["bits"], head_dim)
        return (pl.col("codec") == self.headline["codec"]) & (pl.col("code_bytes") == size)

    @property
    def is_headline(self) -> pl.Expr:
        """Rows of the headline design."""
        return self.is_record & self.is_rule

    @property
    def is_compared(self) -> pl.Expr:
        """Rows of the layers in which every codec was swept."""
        return pl.col("layer").is_in(self.job.compared_layers)

    @property
    def compared_heads(self) -> int:
        """Heads of those layers."""
        rows = self.table("frontier.safe_points").filter(self.is_headline, self.is_compared)
        return rows.height

    @property
    def is_oracle(self) -> pl.Expr:
        """Rows of the exact scores under the headline rule."""
        return (pl.col("codec") == ORACLE) & self.is_rule

    @property
    def held_out(self) -> pl.DataFrame:
        """Held-out texts with domain and queries per head, one row each."""
        return (
            self.table("frontier.points")
            .filter(self.is_headline)
            .group_by("text", "domain", maintain_order=True)
            .agg(pl.col("queries").max())
        )

    @property
    def heads(self) -> int:
        """Heads measured, over all layers."""
        return self.table("frontier.safe_points").filter(self.is_headline).height

    @property
    def has_output(self) -> bool:
        """Whether values were captured, so that output errors exist."""
        return self.table("frontier.layer_head")["output_error_mean"].is_not_null().any()

    def targets(self, metric: str) -> list[float]:
        """The losses that thresholds were chosen for, ascending."""
        return sorted(self.frontier["targets"][metric])

    def tightest(self, metric: str) -> float | None:
        """The smallest of them, if there is any."""
        return next(iter(self.targets(metric)), None)


def words(name: str) -> str:
    """A registry name as words: `transform_code` to `transform code`; the oracle is `exact scores`."""
    return "exact scores" if name == ORACLE else name.replace("_", " ")


def _key(name: str) -> str:
    return name.replace(".", "_", 1)
