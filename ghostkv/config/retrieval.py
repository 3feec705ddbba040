"""Section `retrieval`: questions on long contexts, answered under elimination."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ghostkv.config.base import Place, Section, Seed, Share, Threads, Tokens, once, setting
from ghostkv.config.options import Count
from ghostkv.config.policies import PolicyOptions, entries_of
from ghostkv.files.errors import ConfigError

# Beside ghostkv.stages.retrieval.tasks.TASKS, which a config need not import; a test compares them.
TASK_NAMES = (
    "niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3",
    "niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe", "qa_squad", "qa_hotpotqa",
)  # fmt: skip
# Unlike other shares it may be all or nothing: a needle may stand first or last.
Depth = Annotated[float, Field(ge=0, le=1)]


class TaskEntry(Section):
    """One task at one length; a job of its own."""

    task: Literal[TASK_NAMES] = setting(..., "RULER's name of the task.")
    length: Tokens = setting(1024, "Tokens of prompt and answer together.")
    contexts: Count = setting(6, "Contexts. niah_single asks a question a depth, niah_multikey four.")

    @property
    def job(self) -> str:
        """How files name it."""
        return f"{self.task}_{self.length}"


class RetrievalEntry(PolicyOptions):
    """Which questions a policy answers."""

    tasks: list[Literal[TASK_NAMES]] | None = setting(
        None,
        "Tasks that it answers, for a policy that is slow; null for all.",
        examples=[["niah_single_2"]],
        max_length=len(TASK_NAMES),
    )
    lengths: list[Tokens] | None = setting(
        None, "Lengths at which it answers, likewise.", examples=[[1024]], max_length=1000
    )
    contexts: Count | None = setting(
        None, "First contexts of a task that it answers; null for all.", examples=[1]
    )

    @model_validator(mode="after")
    def _prefill_is_the_sections(self) -> RetrievalEntry:
        if "prefill" in self.model_fields_set:
            raise ConfigError(
                f"config: retrieval.policies {self.label} has prefill: {self.prefill}, which is no option of one policy. "
                f"Accepted: one prefill for all.\n  Write: prefill: {self.prefill}   (under retrieval)"
            )
        return self

    def answers(self, task: TaskEntry) -> bool:
        """Whether it answers a task's questions at its length."""
        return task.length in (self.lengths or [task.length]) and task.task in (self.tasks or [task.task])


def _tasks() -> list[TaskEntry]:
    grid = [("niah_single_2", 1024, 6), ("niah_single_2", 2048, 2), ("niah_single_2", 4096, 2)]
    rest = [("niah_single_1", 1024, 1), ("niah_multikey_1", 1024, 2), ("niah_multikey_2", 1024, 1)]
    # The default model answers none of these well enough to measure anything; two contexts show that.
    rest += [(name, 1024, 2) for name in ("niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe")]
    rest += [(name, 1024, 2) for name in ("qa_squad", "qa_hotpotqa")]
    return [TaskEntry(task=task, length=length, contexts=count) for task, length, count in grid + rest]


def _policies() -> list[dict[str, Any]]:
    # Short prompts read a larger share than the ratio that was fitted on long ones: 0.19 stays within 0.25.
    # What other tasks are asked under is the least that compares: ours and the nearest peer.
    single = {"tasks": ["niah_single_2"]}
    once = single | {"contexts": 1}
    # Whom the headline is about answers every single needle that is asked.
    needles = {"tasks": ["niah_single_1", "niah_single_2"]}
    lines: list[dict[str, Any]] = [
        {"label": "ghost_015", "policy": "ghost", "ratio": 0.15},
        {"label": "ghost_019", "policy": "ghost", "ratio": 0.19} | needles,
    ]
    for name, ratio, options, about in (
        ("quest", 0.2, {"page": 16}, {}),
        ("oracle_topk", 0.15, {}, once),
        ("streaming_llm", 0.2, {}, once),
        ("snapkv", 0.15, {"observe": 32, "kernel": 5}, once | {"lengths": [1024]}),
    ):
        lines.append(
            {"label": f"{name}_{round(100 * ratio):03d}", "policy": "selector", "ratio": ratio}
            | {"selector": {"name": name, **options}}
            | about
        )
    mass = {"label": "mass_5pct", "policy": "certified_mass", "delta": 0.05}
    lines.append(mass | once | {"lengths": [1024]})
    return lines


# Tokens of context, over all contexts of a task.
_SHORT = 2048


class Retrieval(Section):
    """Questions of RULER on long contexts: context dense, question and answer under elimination."""

    data: Place = setting(
        "ruler",
        "ruler: the wheel that ghostkv/stages/retrieval/tasks/ruler.yaml names; else a folder with files of the same names.",
    )
    tasks: Annotated[list[TaskEntry], once("job")] = setting(
        _tasks(),
        "Tasks by length, a job each; those of no more than 2,048 tokens in all share one. The default asks for single "
        "needles at up to 4k tokens, and other tasks at 1k. docs/retrieval.md has a full list for larger machines.",
        min_length=1,
        max_length=1000,
    )
    depths: Annotated[list[Depth], once()] = setting(
        [0.05, 0.25, 0.5, 0.75, 0.95],
        "Depths of single needles, as shares of the haystack from 0 to 1.",
        min_length=1,
        max_length=64,
    )
    policies: Annotated[list[entries_of(RetrievalEntry)], once("label")] = setting(
        _policies(),
        "Who answers beside the dense model. Ratios are those of quality.policies.",
        validate_default=True,
        min_length=1,
        max_length=200,
        examples=[[{"label": "ghost_030", "policy": "ghost", "ratio": 0.3}]],
    )
    prefill: Literal["dense", "sparse"] = setting(
        "dense", "dense: the context is read densely; sparse: all is read under the policy."
    )
    measurable: Share = setting(0.8, "Accuracy of the dense model under which a task measures nothing.")
    slack: Count = setting(4, "Tokens that an answer may take beyond the expected one, up to RULER's limit.")
    threads: Threads = setting(1, "Threads of a task's job.")
    seed: Seed = setting(0, "Seed of haystacks, keys, values and depths.")

    @model_validator(mode="after")
    def _dense_is_no_entry(self) -> Retrieval:
        if any(entry.label == "dense" for entry in self.policies):
            raise ConfigError(
                "config: retrieval.policies has the label dense, by which tables name the model itself. Accepted: any "
                "other, as dense always answers.\n  Write: label: full"
            )
        return self

    def check_lengths(self, max_context: int | None, model: str) -> None:
        """Refuse tasks that are longer than the model takes, by a `ConfigError`."""
        long = [entry for entry in self.tasks if max_context and entry.length > max_context]
        if long:
            raise ConfigError(
                f"config: retrieval.tasks has {', '.join(f'{entry.task} at {entry.length}' for entry in long)} tokens, but "
                f"{model} takes at most {max_context}. Accepted: lengths up to that, prompt and answer together.\n"
                f"  Write: {{task: {long[0].task}, length: {max_context}}}   (under retrieval.tasks)"
            )

    def jobs(self) -> dict[str, TaskEntry]:
        """Every task by the name of its job."""
        return {entry.job: entry for entry in self.tasks}

    def short_jobs(self) -> list[str]:
        """Jobs that take hardly longer than loading the model does: one process does them all."""
        return [job for job, entry in self.jobs().items() if entry.length * entry.contexts <= _SHORT]
