"""Where a policy's fitted parts come from: captures, codecs and thresholds of earlier stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghostkv.captures.capture_files import LayerCapture, read_layer, read_layers_table
from ghostkv.captures.captured_texts import CapturedText
from ghostkv.codecs.records import CodecSpec, load_codecs
from ghostkv.codecs.sizes import code_bytes
from ghostkv.files.errors import ConfigError
from ghostkv.sources.texts import read_texts

if TYPE_CHECKING:
    from ghostkv.config.policies import RecordPolicy


@dataclass(frozen=True, eq=False)
class Sources:
    """Where a policy's fitted parts come from."""

    layers: Sequence[int]  # all layers of the model
    heads: int
    head_dim: int
    # Layer -> ``codecs.safetensors`` of the sketch stage
    codecs: Mapping[int, str | Path] = field(default_factory=dict)
    captures: Sequence[CapturedText] = ()  # those of roles `codec` and `threshold` are read
    points: str | Path | None = None  # ``results/frontier/points.parquet``, for calibrated thetas
    start: int = 0  # first query position that thresholds are fitted at

    @classmethod
    def read(cls, job: Any, inputs: Mapping[str, Any]) -> Sources:
        """What a job names in `layers`, `captures` and `start`, and its input files `codecs` and `points`."""
        described = read_layers_table(job.captures[0].folder)
        shape = int(described["heads"][0]), int(described["head_dim"][0])
        codecs = dict(zip(job.layers, inputs["codecs"], strict=True))
        return cls(job.layers, *shape, codecs, job.captures, inputs.get("points"), job.start)

    @classmethod
    def of(cls, results: str | Path, start: int = 0) -> Sources:
        """From a results folder, with all captures it holds."""
        results = Path(results)
        texts = {
            row["text"]: row for row in read_texts(results / "texts/texts.parquet").iter_rows(named=True)
        }
        captures = [
            CapturedText(folder.name, texts[folder.name]["domain"], texts[folder.name]["role"], str(folder))
            for folder in sorted((results / "capture").iterdir())
            if folder.name in texts and (folder / "layers.parquet").exists()
        ]
        described = read_layers_table(captures[0].folder)
        layers = described["layer"].to_list()
        codecs = {layer: results / f"sketch/layer_{layer:02d}/codecs.safetensors" for layer in layers}
        points = results / "frontier/points.parquet"
        shape = int(described["heads"][0]), int(described["head_dim"][0])
        return cls(layers, *shape, codecs, captures, points, start)

    def spec(self, policy: RecordPolicy) -> CodecSpec:
        """The codec of a policy's records at its size."""
        return CodecSpec(policy.codec, code_bytes(policy.bits, self.head_dim))

    def fitted(self, layer: int, spec: CodecSpec) -> list[Any]:
        """The sketch stage's fitted codec of each KV head."""
        if layer not in self.codecs:
            raise ConfigError(
                f"policy: no sketch of layer {layer}, and ghost records need its codecs. Run: snakemake frontier"
            )
        found = load_codecs(Path(self.codecs[layer]), [spec])
        return [found[spec, head] for head in range(len(found))]

    def texts(self, role: str, layer: int) -> list[LayerCapture]:
        """One layer of every capture of a role."""
        found = [read_layer(text.folder, layer) for text in self.captures if text.role == role]
        if not found:
            raise ConfigError(f"texts: no text has the role {role!r}; set texts.per_role.{role}: 1")
        return found
