"""Runs a small training job in child processes that are killed, and tells what is left of it.

Called as `python victim.py FOLDER ALGORITHM ACTION ARGUMENT`; prints JSON. Children are forked from a process
that has imported everything but has not started JAX, which saves the imports for each of them.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint  # noqa: F401 - imported before the forks

from fedrecon import Clients, Mean, Model, Solver, fedrecon, optimizer
from fedrecon.algorithms._fedalt import fedalt
from fedrecon.data._holdout import hold_out
from fedrecon.experiment.reporting import plots  # noqa: F401 - likewise
from fedrecon.experiment.training.train import train
from fedrecon.simulation import _client_state_store as kept
from fedrecon.simulation._simulation import Simulation

EVERY = 3
OPERATIONS = (
    "open",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.remove",
    "os.truncate",
    "os.link",
    "shutil.rmtree",
)


def clients(seed, count):
    generator = np.random.default_rng(seed)

    def one():
        x = generator.normal(size=(generator.integers(1, 12), 3))
        return {"x": x, "y": x @ [1.0, -2.0, 0.5] + generator.normal() + 0.1 * generator.normal(size=len(x))}

    return Clients.from_arrays({f"{seed}-{i}": one() for i in range(count)})


def algorithm(name):
    def predict(g, local, batch):
        return batch["x"] @ g["w"] + local

    return {"fedrecon": fedrecon, "fedalt": fedalt}[name](
        Model(
            init_global=lambda key: {"w": jax.random.normal(key, (3,))},
            init_local=lambda g, key: jnp.zeros(()),
            loss=lambda g, local, batch, key: Mean.of((predict(g, local, batch) - batch["y"]) ** 2),
            metrics=lambda g, local, batch: {"mse": Mean.of((predict(g, local, batch) - batch["y"]) ** 2)},
            predict=predict,
        ),
        Solver(optimizer("sgd", learning_rate=0.3), 5),
        Solver(optimizer("sgd", learning_rate=0.1), 5),
        optimizer("adam", learning_rate=0.1),
    )


def run(out, rounds):
    seen = hold_out(clients(0, 30), {"validation": 0.2, "test": 0.2})
    kept._WORTH = 1  # logs are written anew as soon as most of them is outdated
    return train(
        algorithm(out.parent.name),
        seen.pop("train"),
        rounds,
        clients_per_round=8,
        evaluate=clients(1, 12),
        held_out=seen if out.parent.name == "fedalt" else None,
        test=clients(2, 12),
        evaluate_every=2,
        checkpoint_every=EVERY,
        select="best",
        out=out,
    )


def child(out, rounds, kill_at, counted):
    """Runs the job, dead before file operation number `kill_at`; each round writes a byte to `counted`."""
    jax.config.update("jax_compilation_cache_dir", str(out.parent / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    original, operations, here = Simulation.rounds, 0, str(out)

    def watched(self, state, count):
        for done in original(self, state, count):
            os.write(counted, b".")
            yield done

    def audit(event, arguments):
        nonlocal operations
        if event in OPERATIONS and arguments and str(arguments[0]).startswith(here):
            operations += 1
            if operations == kill_at:
                os._exit(9)

    Simulation.rounds = watched
    sys.addaudithook(audit)
    run(out, rounds)
    os.write(counted, json.dumps({"operations": operations, **left(out)}).encode())
    os._exit(0)


def forked(out, rounds, kill_at=0, kill_after=None):
    """How many rounds a child ran and, if it lived to its end, what it left (else None).

    The parent itself must not touch JAX or Orbax: their threads would not survive the forks.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            child(out, rounds, kill_at, writing)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(70)
    os.close(writing)
    heard = b""
    if kill_after is not None:
        heard = os.read(reading, 1)  # the first round is done
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    while more := os.read(reading, 4096):
        heard += more
    os.close(reading)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 9, -signal.SIGKILL), f"the child ended with {code}"
    rounds_run = len(heard) - len(heard.lstrip(b"."))
    return rounds_run, json.loads(heard[rounds_run:]) if code == 0 else None


def left(out):
    """What must be the same after every run: parameters, metrics, and the clients' metrics."""
    from fedrecon.experiment.storage.checkpoint import Checkpoints

    checkpoints = Checkpoints(out / "checkpoints")
    arrays = checkpoints.arrays(checkpoints.latest())
    lines = [x for x in (out / "metrics.csv").read_text().splitlines() if ",seconds," not in x]
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode() + arrays[name].tobytes())
    for path in sorted(out.glob("clients-*.parquet")):
        digest.update(f"{path.name} ".encode() + path.read_bytes())
    logs = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted((out / "kept").glob("*"))}
    result = json.loads((out / "result.json").read_text())
    metrics = json.dumps([result["validation"], result["test"], result["selected_round"]], sort_keys=True)
    hidden = [p.relative_to(out).as_posix() for p in out.rglob(".*") if p.name != ".lock"]
    return {
        "arrays": digest.hexdigest(),
        "csv": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
        "rounds": [x.split(",")[0] for x in lines if ",train,training,examples,loss," in x],
        "metrics": hashlib.sha256(metrics.encode()).hexdigest(),
        "checkpoints": checkpoints.rounds(),
        "hidden": hidden,
        "kept": logs,
        "finished": result["finished"],
    }


def kill_and_resume(folder, name, rounds, **how):
    """Kills a run once, lets it go on, and reports how many rounds were run in excess, and what is left."""
    out = folder / name
    before, lived = forked(out, rounds, **how)
    after, found = forked(out, rounds)
    return {"again": before + after - rounds, "killed": lived is None, **found}


def main(folder, algorithm, action, argument):
    folder = Path(folder).absolute() / algorithm
    folder.mkdir(exist_ok=True)
    if action == "undisturbed":
        ran, found = forked(folder / f"whole-{argument}", int(argument))
        return {"ran": ran, "every": EVERY, **found}
    if action == "operations":
        rounds, *points = map(int, argument.split(","))
        return [kill_and_resume(folder, f"operation-{n}", rounds, kill_at=n) for n in points]
    rounds, seed, count = map(int, argument.split(","))
    draw = random.Random(seed)
    return [
        kill_and_resume(folder, f"random-{seed}-{i}", rounds, kill_after=draw.uniform(0.0, 1.0))
        for i in range(count)
    ]


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
