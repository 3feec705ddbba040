"""What the section of a stage demands of other sections and of the model, checked once the stage is asked for.

A run of the frontier alone need not satisfy stages that it leaves out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ghostkv.files.errors import ConfigError
from ghostkv.stages.reproduce.predecessor_files import predecessor_files

if TYPE_CHECKING:
    from ghostkv.stages.run import Run


def check_stage(run: Run, stage: str) -> None:
    """Refuse a stage that cannot run under this config, before anything does.

    Raises
    ------
    ConfigError
        With the line to write.
    """
    for check in _CHECKS[stage]:
        check(run)


def _a_model_can_write(run: Run) -> None:
    if run.imports:
        raise ConfigError(
            "demo: the model writes a paragraph, and capture.import brings tensors without a model. Accepted: a run of a "
            "model.\n  Write: snakemake frontier   (or leave out capture.import)"
        )


def _a_model_can_be_traced(run: Run) -> None:
    if run.imports:
        raise ConfigError(
            "trace: the model reads a long text, and capture.import brings tensors without a model. Accepted: a run of a "
            "model.\n  Write: snakemake capture   (or leave out capture.import)"
        )


def _benchmark_reads_a_text(run: Run) -> None:
    _within_texts(run, "benchmark.tokens", run.config.benchmark.tokens or run.config.capture.tokens)


def _prompts_are_cut_from_texts(run: Run) -> None:
    historical = run.config.historical
    _within_texts(run, "historical.passage_tokens", historical.passage_tokens)
    _within_texts(run, "historical.prompt_tokens", max(historical.prompt_tokens))


def _within_texts(run: Run, key: str, tokens: int) -> None:
    longest = run.config.capture.tokens
    if tokens > longest:
        raise ConfigError(
            f"config: {key} is {tokens}, but texts are only sure to have capture.tokens: {longest}. Accepted: at most "
            f"that.\n  Write: {key.split('.')[1]}: {longest}   (under {key.split('.')[0]})"
        )


def _generated_contexts_have_cold_keys(run: Run) -> None:
    synthetic = run.config.synthetic
    lengths = {"tokens": synthetic.tokens, "decode.start": synthetic.decode.start}
    _have_cold_keys(run, "synthetic", lengths | {"tradeoff.contexts": min(synthetic.tradeoff.contexts)})


def _generated_decodes_have_cold_keys(run: Run) -> None:
    _have_cold_keys(run, "decode.synthetic", {"tokens": run.config.decode.synthetic.tokens})


def _have_cold_keys(run: Run, section: str, lengths: dict[str, int]) -> None:
    frontier = run.config.frontier
    least = 2 * (2 * (frontier.sinks + frontier.hot) + frontier.top_k)
    for key, tokens in lengths.items():
        if tokens < least:
            raise ConfigError(
                f"config: {section}.{key} is {tokens}, but queries of its second half must see cold keys: "
                f"frontier.sinks, hot and top_k ask for {least} tokens. Accepted: {least} or more.\n"
                f"  Write: {key.split('.')[-1]}: {least}   (or less frontier.hot)"
            )


def _every_layer_is_recorded(run: Run) -> None:
    every = run.model.attending()
    if len(run.layers) < len(every) and not run.imports:
        raise ConfigError(
            f"config: capture.layers records {len(run.layers)} of the model's {len(every)} layers, and a model that "
            "decodes needs records of all. Accepted: all.\n  Write: layers: all   (under capture)"
        )


def _every_global_layer_is_recorded(run: Run) -> None:
    # Layers that slide stay dense, with records or without.
    windows = run.size.windows
    lacking = [
        layer
        for layer in run.model.attending()
        if layer not in run.layers and not (windows and windows[layer])
    ]
    if lacking and not run.imports:
        raise ConfigError(
            f"config: capture.layers leaves out {lacking}, and a model that answers needs records of every layer that sees the whole "
            f"text. Accepted: all of these.\n  Write: layers: {sorted({*run.layers, *lacking})}   (under capture)"
        )


def _dense_layers_exist(stage: str) -> Callable[[Run], None]:
    def check(run: Run) -> None:
        for policy in getattr(run.config, stage).policies:
            lacking = [layer for layer in policy.dense_layers if layer >= run.model.layers]
            if lacking:
                raise ConfigError(
                    f"config: {stage}.policies {policy.name} has dense_layers {lacking}, but {run.config.model.name} has "
                    f"{run.model.layers} layers. Accepted: layers from 0 to {run.model.layers - 1}.\n"
                    f"  Write: dense_layers: {[layer for layer in policy.dense_layers if layer not in lacking]}"
                )

    return check


def _steps_fit_the_text(run: Run) -> None:
    steps = run.config.speed.steps
    if not steps.contexts or run.imports:
        return
    _every_global_layer_is_recorded(run)
    if steps.contexts[-1] > run.longest:
        raise ConfigError(
            f"config: speed.steps.contexts has {steps.contexts[-1]} tokens, and the longest text has {run.longest}. Accepted: at most "
            f"that.\n  Write: contexts: {[one for one in steps.contexts if one < run.longest] + [run.longest]}   (steps, under speed)"
        )
    if steps.contexts[0] < 2 * steps.count + 64:
        raise ConfigError(
            f"config: speed.steps.contexts has {steps.contexts[0]} tokens, and {steps.count} steps end it. Accepted: "
            f"{2 * steps.count + 64} or more.\n  Write: count: {max(1, (steps.contexts[0] - 64) // 2)}   (steps, under speed)"
        )


def _predecessor_is_there(run: Run) -> None:
    folder = run.config.reproduce.predecessor
    if folder and not (predecessor_files(folder) and Path(folder, "metrics.csv").is_file()):
        raise ConfigError(
            f"config: reproduce.predecessor is {folder}, seen from {Path.cwd()}, which is no folder with metrics.csv and gpt2_*.npz. "
            "Accepted: the two kinds of files that ghostkv-lab published, in one folder.\n  Write: predecessor: null   (under reproduce)"
        )


def _tasks_fit_the_model(run: Run) -> None:
    run.config.retrieval.check_lengths(run.model.max_context, run.config.model.name)


def _policies(stage: str) -> Callable[[Run], None]:
    def check(run: Run) -> None:
        run.config.check_policies(stage, run.model.layers)

    return check


_CHECKS: dict[str, tuple[Callable[[Run], None], ...]] = {
    "demo": (_a_model_can_write,),
    "trace": (_a_model_can_be_traced,),
    "benchmark": (_benchmark_reads_a_text,),
    "historical": (_prompts_are_cut_from_texts,),
    "synthetic": (_generated_contexts_have_cold_keys,),
    "decode": (_generated_decodes_have_cold_keys,),
    "quality": (
        _every_layer_is_recorded,
        _dense_layers_exist("quality"),
        _policies("quality"),
    ),
    "reproduce": (_predecessor_is_there,),
    "speed": (_steps_fit_the_text,),
    "retrieval": (
        _every_global_layer_is_recorded,
        _dense_layers_exist("retrieval"),
        _tasks_fit_the_model,
        _policies("retrieval"),
    ),
}
