"""StreamingLLM: sinks and the most recent tokens.

Card
----
Paper: Xiao et al. 2024, "Efficient streaming language models with attention sinks".
Rule: keep the first tokens and a window of recent ones. The lab's sinks and hot window are kept for everyone;
    the budget widens the window.
What differs: positions are not re-indexed inside the window, since captured queries and keys carry the
    positions of the full text.
Index bytes: none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ghostkv.selectors.base import ALONE, Estimate, Scene, Selector


@dataclass(frozen=True)
class StreamingLLM(Selector):
    """Read the most recent cold keys."""

    # It knows nothing of a key's mass.
    columns: ClassVar[tuple[str, ...]] = (ALONE,)

    def estimate(self, fitted: Any, scene: Scene) -> Estimate:
        scores = scene.empty()
        scores[...] = np.arange(scene.shape[2], dtype=np.float32)
        return Estimate(scores)
