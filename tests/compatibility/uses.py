"""What is done with the folders of an earlier version, and the numbers that come out.

Both the script that makes the folders and the tests call these functions: the one with the code of the
earlier version, the others with the present one. They use nothing but commands, flags, public names of the
package and names of files in a run folder.
"""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
from tests.compatibility import own_model
from tests.compatibility.measured import fedrecon

import fedrecon as fr

RUN = "run"
TEXTS = "next_word/texts.jsonl"
CLIENTS = "clients/clients.arrow"
OWN = "own_model"
BY_COMMAND = ("command_line", "stateful", "next_word")
RUNS = (*BY_COMMAND, OWN)
FIXTURES = (*RUNS, "clients")
# Rows that later versions add to a comparison of runs on ratings.
BASELINES = ("by client mean", "by training mean")
COMPARED = {"ratings": ("command_line", "stateful"), "tasks": (OWN, "next_word")}

# Where the data are that a run reads; generated ratings are read from nowhere.
_DATA = {"next_word": ("--data", TEXTS)}
# The requests for personalisation that a run gets.
_PERSONALIZED: dict[str, dict[str, tuple[Any, ...]]] = {
    "command_line": {"parameters": ("--data", CLIENTS), "top": ("--data", CLIENTS, "--top", 3)},
    "stateful": {"parameters": ("--data", CLIENTS), "top": ("--data", CLIENTS, "--top", 3)},
    "next_word": {"parameters": ("--data", TEXTS)},
}


def resume(name: str) -> dict[str, Any]:
    """Lets a run that was stopped go on to its last round.

    Args:
        name: Of the fixture, which lies in the working folder as all of them do here.

    Returns:
        The metrics of its `result.json`, where it went on from, and its training loss by round.
    """
    run = Path(name, RUN)
    if name == OWN:
        own_model.train(run)
    else:
        assert fedrecon("resume", run, *_DATA.get(name, ())) == 0
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    names = ("train", "validation", "test", "rounds", "selected_round", "finished")
    asked = (*names, "resumed_from", "recomputed_rounds", "bytes_per_client_and_round")
    with open(run / "metrics.csv", encoding="utf-8", newline="") as file:
        losses = [x for x in csv.DictReader(file) if (x["split"], x["metric"]) == ("train", "loss")]
    return {
        **{key: result[key] for key in asked if key in result},
        "training_loss": {row["round"]: float(row["value"]) for row in losses},
        "clients": {path.name: _columns(path) for path in sorted(run.glob("clients-*.parquet"))},
    }


def evaluate(name: str) -> dict[str, Any]:
    """Evaluates a resumed run again: with the command, or in Python what was trained there.

    Args:
        name: Of the fixture.

    Returns:
        The metrics of every client, by file; or the summary.
    """
    if name == OWN:
        algorithm, result = own_model.algorithm(), own_model.train(Path(name, RUN))
        split = fr.AlternateBatches(5)
        again = fr.evaluate(algorithm, result.state, own_model.clients(3, 6), split=split, seed=7)
        return _plain(again.summary())
    assert fedrecon("evaluate", Path(name, RUN)) == 0
    files = sorted(Path(name, RUN).glob("evaluated-clients-*.parquet"))
    return {path.name: _columns(path) for path in files}


def personalize(name: str) -> dict[str, Any]:
    """Personalises clients with a resumed run: with the command, or in Python what was trained there.

    Args:
        name: Of the fixture.

    Returns:
        Of each request the columns of what came out.
    """
    if name == OWN:
        algorithm, result = own_model.algorithm(), own_model.train(Path(name, RUN))
        new = own_model.clients(3, 6)
        serve = fr.Personalization(algorithm, result.state, new.num_examples, seed=7)
        return {"parameters": {key: values.tolist() for key, values in serve(new).items()}}
    answers = {}
    for request, options in _PERSONALIZED[name].items():
        out = Path(name, f"{request}.parquet")
        assert fedrecon("personalize", Path(name, RUN), *options, "--out", out) == 0
        answers[request] = _columns(out)
    return answers


def compare(pair: str) -> dict[str, Any]:
    """Puts two resumed runs side by side with `fedrecon compare`.

    Args:
        pair: Of `COMPARED`.

    Returns:
        The rows of `quality.csv` that are of these runs, not of `BASELINES`, and, where the runs have clients
        in common, of `differences.csv`.
    """
    out = Path(f"comparison-{pair}")
    assert fedrecon("compare", *(Path(name, RUN) for name in COMPARED[pair]), "--out", out) == 0
    # A difference is small beside the two numbers that it is taken of, so that its relative error is larger
    # than theirs; its p-value follows it.
    left_out = ("difference", "standard error", "95 % from", "to", "p")
    tables = {}
    for table in ("quality", "differences"):
        if (out / f"{table}.csv").exists():
            with open(out / f"{table}.csv", encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            tables[table] = [
                {k: _number(v) for k, v in row.items() if k not in left_out}
                for row in rows
                if row.get("method") not in BASELINES
            ]
    return tables


def read_clients() -> dict[str, Any]:
    """The content of the client file: of each client by its id, and the original ids that it stores."""
    clients = fr.Clients.open(CLIENTS)
    return {
        "ids": list(map(str, clients.ids)),
        "examples": [
            {field: values.tolist() for field, values in clients[client].items()} for client in clients.ids
        ],
        "dtypes": {field: str(clients.column(field).dtype) for field in clients.fields},
        "vocabularies": {field: [str(x) for x in ids] for field, ids in clients.vocabularies.items()},
    }


def _columns(path: Path) -> dict[str, Any]:
    return _plain(pyarrow.parquet.read_table(path).to_pydict())


def _plain(values: Any) -> Any:
    """The same as JSON gives it back: numbers that are not finite are None."""
    return json.loads(json.dumps(values, default=float), parse_constant=lambda _: None)


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text
