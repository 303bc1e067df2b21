"""The next words of a new user, with the parameters of a run."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedrecon._safe_text import terminal
from fedrecon.errors import RunError
from fedrecon.experiment.config import Config
from fedrecon.experiment.serving.evaluate import hold_to_use
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.storage.checkpoint import Checkpoints
from fedrecon.experiment.storage.run_folder import CHECKPOINTS
from fedrecon.experiment.training.build import global_params_at
from fedrecon.experiment.training.vocabularies import vocabularies_of

if TYPE_CHECKING:
    from fedrecon.models.next_word._completion import Completion


def complete_run(
    run: Path, config: Config, history: Path, prompts: Sequence[str], most: int, screen: Console
) -> None:
    """Prints the next words after each prompt, by a run's parameters alone and with a user's own part.

    Args:
        run: The run folder, from which the parameters are read.
        config: The configuration of the run.
        history: The file of the user's text: one sentence a line, or a file of the task with one client.
        prompts: The beginnings of sentences.
        most: The number of words to show.
        screen: The console that shows a table for each prompt.

    Raises:
        SettingError: The run is of another task, or centralised.
        RunError: The run has no checkpoint or one of another vocabulary, or it diverged.
        DataError: The history cannot be read, or holds several clients or no word.
    """
    if config.task != "next_word":
        raise SettingError(
            f"{run}: completion takes a run of the task next_word, this one is of {config.task}"
        )
    if config.algorithm.name == "centralized":
        raise SettingError(
            f"{run}: completion takes a federated run, this one is of 'centralized', whose parameters have a "
            "row for each of its clients and can be used only with their data: fedrecon evaluate"
        )
    from fedrecon.datasets.text._load import read_user
    from fedrecon.datasets.text._tokenizers import tokenizer_of
    from fedrecon.datasets.text._vocabulary import FIELD, Vocabulary
    from fedrecon.experiment.tasks.next_word import network, serving_of
    from fedrecon.models.next_word._completion import complete

    data = config.data
    named = vocabularies_of(run).get(FIELD, [])
    vocabulary = Vocabulary.from_named(named, data.buckets, data.outputs, f"{run}: the vocabulary")
    algorithm = config.algorithm.build(network(config, len(vocabulary.words)))
    serving = serving_of(config, len(vocabulary.words))
    if serving is not None:
        algorithm = serving(algorithm)
    latest = Checkpoints(run / CHECKPOINTS).latest()
    if latest is None:
        raise RunError(f"{run}: a run must have a checkpoint to complete a sentence, this one has none")
    params = global_params_at(run, algorithm.model)
    remark = hold_to_use(run, params)
    if remark:
        screen.print(f"Note: {remark}.")
    completions = complete(
        algorithm,
        params,
        latest,
        vocabulary,
        read_user(history, data.unpacked_gib),
        prompts,
        tokenize=tokenizer_of(data.tokenizer),
        length=data.length,
        most=most,
        seed=config.seed,
    )
    for number, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        if number:
            screen.print()
        screen.print(_shown(f"{prompt} …"))
        screen.print(_table(completion))


def _table(completion: "Completion") -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("without the user's part", "%", "with it", "%"):
        table.add_column(name, justify="right" if name == "%" else "left")
    # The columns may differ in length: the user's own words are choices of their own in the second one only.
    for row in zip_longest(*completion, fillvalue=None):
        cells = [("", "") if x is None else (_shown(x[0]), f"{100 * x[1]:.1f}") for x in row]
        table.add_row(*cells[0], *cells[1])
    return table


def _shown(words: str) -> Text:
    """Words as literal text, in which the terminal sees no markup and no command."""
    return Text(terminal(words))
