# Tables of other works, repeated by their own protocols, each beside what was published.
from ghostkv.stages.reproduce.jobs import CharacterTable, ErrorTable, RecallTable, RepeatPredecessor
from ghostkv.stages.reproduce.predecessor_files import predecessor_files


use rule gather_frontier as repeat_predecessor with:
    input:
        files=asked("reproduce", predecessor_files(RUN.config.reproduce.predecessor)),
    output:
        **tables(RepeatPredecessor, "results/reproduce"),
    log:
        "results/logs/reproduce/predecessor.log",
    resources:
        **needs("repeat_predecessor"),
    params:
        run=job_params(RepeatPredecessor),


use rule gather_frontier as recall_table with:
    input:
        **captures(),
    output:
        **tables(RecallTable, "results/reproduce"),
    log:
        "results/logs/reproduce/recall.log",
    resources:
        **needs("recall_table"),
    params:
        run=job_params(RecallTable),


use rule gather_frontier as error_table with:
    input:
        **captures(),
    output:
        **tables(ErrorTable, "results/reproduce"),
    log:
        "results/logs/reproduce/errors.log",
    resources:
        **needs("error_table"),
    params:
        run=job_params(ErrorTable),


use rule gather_frontier as character_table with:
    input:
        **captures(),
        manifest=[] if RUN.imports else f"{RUN.model_folder}/manifest.json",
        texts=[] if RUN.imports else "results/texts/texts.parquet",
    output:
        **tables(CharacterTable, "results/reproduce"),
    log:
        "results/logs/reproduce/characters.log",
    resources:
        **needs("character_table"),
        gpu=RUN.gpus,
    params:
        run=job_params(CharacterTable),
