"""Codecs: write a key small, estimate its score, bound the error. One module each; the config names the module.

To add one, write `ghostkv/codecs/<name>.py` with one dataclass derived from `Codec`, and a line under `sketch.codecs`
in the config. Nothing else lists codecs.
"""

from __future__ import annotations

from ghostkv.codecs.base import Codec, Decoded, Records

__all__ = ["Codec", "Decoded", "Records"]
