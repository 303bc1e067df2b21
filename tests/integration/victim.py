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
from fedrecon.algorithms._building_blocks import uniform
from fedrecon.algorithms._fedalt import fedalt
from fedrecon.data._holdout import hold_out
from fedrecon.data._sampling import Everyone, Uniform
from fedrecon.experiment.reporting import plots  # noqa: F401 - likewise
from fedrecon.experiment.storage import noise_keys
from fedrecon.experiment.training.train import train
from fedrecon.privacy._user_level import user_level_dp
from fedrecon.simulation import _client_state_store as kept
from fedrecon.simulation._simulation import Simulation

EVERY = 3
ROUNDS: list[int] = []
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


def private(*parts):
    """With noise from a key that is the same in all runs; what it adds must be the same, too."""
    noise_keys.secrets.token_bytes = lambda count: b"7" * count
    base = fedrecon(*parts, client_weight=uniform)
    return user_level_dp(
        base, clip=1.0, delta=1e-3, rounds=ROUNDS[0], sampling=Everyone(), num_clients=30, epsilon=4.0
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

    make = {"fedrecon": fedrecon, "fedalt": fedalt, "private": private}[name]
    return make(
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
    ROUNDS[:] = [rounds]
    secret = out.parent.name == "private"
    return train(
        algorithm(out.parent.name),
        seen.pop("train"),
        rounds,
        sampling=Everyone() if secret else Uniform(8),
        evaluate=clients(1, 12),
        held_out=seen if out.parent.name == "fedalt" else None,
        test=clients(2, 12),
        evaluate_every=2,
        checkpoint_every=EVERY,
        select="final" if secret else "best",
        out=out,
    )


def child(out, rounds, kill_at, counted):
    """Runs the job, dead before file operation number `kill_at`; each round writes a byte to `counted`."""
    jax.config.update("jax_compilation_cache_dir", str(out.parent / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    os.environ["FEDRECON_KEYS"] = str(keys_of(out))
    original, operations, here = Simulation.rounds, 0, (str(out), str(keys_of(out)))
    # Of a private run, rounds whose parameters somebody may have seen the consequences of.
    seen = (out / "metrics.csv").read_text().splitlines() if (out / "metrics.csv").exists() else []
    private = out.parent.name == "private"
    released = max([int(x.split(",")[0]) for x in seen if private and ",validation," in x], default=0)

    def watched(self, state, count):
        for done in original(self, state, count):
            os.write(counted, b".")
            assert done.number > released, f"round {done.number} was released and is computed again"
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


def keys_of(out):
    return out.parent / f"keys of {out.name}"


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
    told = [result[name] for name in ("validation", "test", "selected_round")] + [result.get("privacy")]
    metrics = json.dumps(told, sort_keys=True)
    a_row = ",train,training,total,epsilon," if "privacy" in result else ",train,training,examples,loss,"
    hidden = [p.relative_to(out).as_posix() for p in out.rglob(".*") if p.name != ".lock"]
    return {
        "arrays": digest.hexdigest(),
        "csv": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
        "rounds": [x.split(",")[0] for x in lines if a_row in x],
        "metrics": hashlib.sha256(metrics.encode()).hexdigest(),
        "checkpoints": checkpoints.rounds(),
        "hidden": hidden,
        "kept": logs,
        "finished": result["finished"],
        "keys": sorted(path.name for path in keys_of(out).glob("*")),
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
