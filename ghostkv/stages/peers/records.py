"""Ghost records of a layer's texts, of the sizes that selectors ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ghostkv.captures.capture_files import LayerCapture
from ghostkv.captures.captured_texts import CapturedText
from ghostkv.codecs import Codec, Decoded
from ghostkv.codecs.fitting import fit_codecs
from ghostkv.codecs.records import CodecSpec, load_codecs, read_records

if TYPE_CHECKING:
    from ghostkv.stages.peers.jobs import PeersLayer


class TextRecords:
    """Fitted codecs and decoded records by text and KV head; sizes that the sketch stage lacks are fitted."""

    def __init__(
        self,
        loaded: Mapping[CapturedText, LayerCapture],
        codec_texts: Sequence[CapturedText],
        sketch: Mapping[str, str],
        job: PeersLayer,
    ):
        self._loaded, self._codec_texts = loaded, codec_texts
        self._sketch, self._job = sketch, job
        self._codecs: dict[CodecSpec, dict] = {}
        self._decoded: dict[tuple, Decoded] = {}

    def of(self, text: CapturedText, kv_head: int, spec: CodecSpec) -> tuple[Codec, Decoded]:
        """Codec and decoded records of one KV head on a text."""
        if spec not in self._codecs:
            self._codecs[spec] = self._fit(spec)
        codec = self._codecs[spec][spec, kv_head]
        if (text, spec, kv_head) not in self._decoded:
            if spec in self._job.sketched:
                heads = read_records(self._sketch["records"], text.text, [spec])[spec]
            else:
                keys = self._loaded[text].keys
                heads = [self._codecs[spec][spec, head].encode(keys[head]) for head in range(len(keys))]
            for head, records in enumerate(heads):
                self._decoded[text, spec, head] = self._codecs[spec][spec, head].decode(records)
        return codec, self._decoded[text, spec, kv_head]

    def _fit(self, spec: CodecSpec) -> dict:
        if spec in (*self._job.sketched, *self._job.fitted):
            return load_codecs(self._sketch["codecs"], [spec])
        calibration = [self._loaded[text] for text in self._codec_texts]
        return fit_codecs(calibration, [spec], self._job.layer, self._job.sketch_seed)
