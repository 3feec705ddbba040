"""A transform code in a frame that was trained instead of derived."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ghostkv.codecs.transform_code import TransformCode
from ghostkv.codecs.whitened import NO_POWER
from ghostkv.files.errors import TableError

# Above this condition number a frame bounds nothing in float32 that is worth having.
_WORST_CONDITION = 1e6


@dataclass
class Learned(TransformCode):
    """Bits spent as in `TransformCode`, in an invertible frame ``A`` given from outside.

    Estimates are ``q.mu + (A^-T q).y_hat`` with ``y = A (k - mu)``, the residual norm is measured in ``A``, so
    the margin is as sound as any other codec's, whatever training made of ``A``.
    """

    in_config = False

    frame: np.ndarray = field(default=None, repr=False)  # [head_dim, head_dim]

    def fit_frame(self, keys: np.ndarray, queries: np.ndarray) -> None:
        """Take the frame as it is, its rows scaled so that every coordinate of the queries has unit power.

        The scaling leaves estimates alone; it makes squared coordinate error the squared score error of that
        coordinate, which is what bits are spent by.

        Raises
        ------
        TableError
            No frame was given, or it cannot be inverted.
        """
        width = keys.shape[1]
        if self.frame is None or self.frame.shape != (width, width):
            raise TableError(
                f"codec learned: needs a trained frame of shape [{width}, {width}]; train one with "
                "ghostkv.models.learned_frame"
            )
        frame = np.asarray(self.frame, np.float64)
        if not np.isfinite(frame).all() or np.linalg.cond(frame) > _WORST_CONDITION:
            raise TableError(
                "codec learned: the trained frame cannot be inverted; lower calibrated.learned.rate"
            )
        self.mean_ = keys.mean(axis=0)
        inverse = np.linalg.inv(frame)
        power = np.sqrt(((queries @ inverse) ** 2).mean(axis=0))
        # A direction that no calibration query looks along keeps a little weight, else the frame is singular.
        power = np.maximum(power, 1e-3 * power.max()) if (power**2).mean() >= NO_POWER else np.ones(width)
        self.encoder_ = frame * power[:, None]
        self.decoder_ = inverse / power
        self.metric_ = self.encoder_.copy()
