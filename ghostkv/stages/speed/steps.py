"""Stage `speed`: whole decode steps of the model, dense and under a policy of packed records, in turns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ghostkv.captures.capture_files import LayerCapture, read_layer
from ghostkv.captures.captured_texts import by_role
from ghostkv.codecs import Codec
from ghostkv.files.provenance import metadata
from ghostkv.files.tables import write_rows
from ghostkv.sources.texts import text_row
from ghostkv.stages.speed.schemas import STEP_SCHEMA
from ghostkv.stages.speed.timed_layer import field_codecs

if TYPE_CHECKING:
    from ghostkv.runtime.policy import Policy
    from ghostkv.runtime.step_times import StepTimes
    from ghostkv.stages.speed.jobs import TimeSteps


def time_steps(
    job: TimeSteps, inputs: Mapping[str, Any], outputs: Mapping[str, str], threads: int = 1
) -> None:
    """Time steps at every context in every dtype; a row each, none where no context is asked for.

    Raises
    ------
    ConfigError
        No capture has the role `codec` or `threshold`, or the bytes ratio is out of reach.
    """
    steps, found = job.steps, []
    if steps.contexts:
        from ghostkv.models.load import load_model
        from ghostkv.models.tokenizer import load_tokenizer
        from ghostkv.runtime import step_times

        row, folder = text_row(inputs["texts"], job.text), str(Path(inputs["manifest"]).parent)
        ids = load_tokenizer(folder).first(row["content"], steps.contexts[-1])
        policy = _policy(job)
        model = load_model(folder, "float32", threads)
        times = step_times.time_steps(model, ids, steps.contexts, policy, steps.count, steps.dtypes)
        for one in times:
            found.append(_row(one) | {"model": job.model, "text": job.text, "threads": threads})
            print(
                f"{one.context} tokens, {one.dtype}: "
                + ", ".join(f"{way} {1e3 * np.median(each):.1f} ms" for way, each in one.seconds.items()),
                flush=True,
            )
    write_rows(_compared(found), outputs["steps"], STEP_SCHEMA, metadata(job.code))


def _policy(job: TimeSteps) -> Policy:
    """Records in whole fields, fitted here, and one threshold for the whole model that comes to the bytes ratio."""
    from ghostkv.runtime.ghost_decider import GhostFrames
    from ghostkv.runtime.policy import ghost_policy
    from ghostkv.runtime.policy_fit import fit_theta

    texts = by_role(job.captures, "codec", "threshold")
    fitted: dict[int, list[Codec]] = {}

    def layers() -> Iterable[tuple[Sequence[LayerCapture], Sequence[Codec]]]:
        for layer in job.layers:
            calibration = [read_layer(text.folder, layer) for text in texts["codec"]]
            if calibration[0].window:
                continue
            fitted[layer] = field_codecs(calibration, job.bits)
            # One text is enough for a ratio that is measured again on the text that is decoded.
            yield [read_layer(texts["threshold"][0].folder, layer)], fitted[layer]

    ratio = job.steps.ratio
    theta = fit_theta(layers(), [ratio], sinks=job.sinks, hot=job.hot, start=job.start)[ratio]
    return ghost_policy(
        {layer: GhostFrames.of(codecs) for layer, codecs in fitted.items()}, theta, job.heads, per_key=True,
        dense_layers=tuple(layer for layer in job.model_layers if layer not in fitted), sinks=job.sinks, hot=job.hot,
    )  # fmt: skip


def _row(one: StepTimes) -> dict[str, Any]:
    times = {f"{way}_seconds": float(np.median(each)) for way, each in one.seconds.items()}
    spent = {f"{way}_cpu_seconds": float(np.median(each)) for way, each in one.cpu_seconds.items()}
    return {
        "dtype": one.dtype,
        "tokens": one.context,
        "steps": len(one.kl),
        **times,
        **spent,
        "own_ratio": times["own_seconds"] / times["ghost_seconds"],
        "kl": float(one.kl.mean()),
        "top1": float(one.same.mean()),
        "bytes_ratio_gqa": one.read["bytes_ratio_gqa"],
        "elimination": one.read["elimination"],
    }


def _compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With the fastest dense step of a context, of any way and dtype, over the fastest under the policy."""
    for row in rows:
        alike = [other for other in rows if other["tokens"] == row["tokens"]]
        ways = ("own_seconds", "grouped_seconds")
        dense = min(other[way] for other in alike for way in ways if way in other)
        row["ratio"] = dense / min(other["ghost_seconds"] for other in alike)
    return rows
