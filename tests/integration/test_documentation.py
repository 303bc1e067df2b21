"""The Python of the documentation's pages, and two tutorials from their first command to their last."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

# From top to bottom in one program, and what the program begins with where a page leaves it to the reader.
RUN_IN_PYTHON = {
    "docs/extending.md": "",
    "docs/moving_from_tff.md": "",
    "docs/mathematics.md": "",
    "docs/tutorials/your_model.md": "",
    "docs/tutorials/your_algorithm.md": "",
    "docs/algorithms.md": """
import numpy as np
from fedrecon import Clients, Solver, Uniform, optimizer
from fedrecon.algorithms import fedalt
from fedrecon.models import matrix_factorization
rng = np.random.default_rng(0)
ratings = {
    user: {"item": rng.permutation(30)[:12].astype("int32"), "rating": rng.normal(3, 1, 12).astype("float32")}
    for user in range(20)
}
clients = Clients.from_arrays(ratings)
sgd = optimizer("sgd", learning_rate=0.1)
step = Solver(sgd, batch_size=5)
algorithm = fedalt(matrix_factorization(30, 4), step, step, optimizer("sgd", learning_rate=1.0))
sampling = Uniform(5)
held_out = clients.with_columns(held_out=(np.arange(240) % 6 == 5).astype("int8"))
""",
    "docs/availability.md": """
import numpy as np
import fedrecon as fr
clients = fr.Clients.from_arrays({user: {"item": np.zeros(user % 7, "int32")} for user in range(2000)})
""",
    "docs/privacy.md": """
import numpy as np
import fedrecon as fr
from fedrecon.models import matrix_factorization
rng = np.random.default_rng(0)
clients = fr.Clients.from_arrays({
    user: {"item": rng.permutation(30)[:12].astype("int32"), "rating": np.full(12, 3, "float32")}
    for user in range(20)
})
sgd = fr.Solver(fr.optimizer("sgd", learning_rate=0.1), batch_size=5)
algorithm = fr.fedrecon(
    matrix_factorization(30, 4), sgd, sgd, fr.optimizer("sgd", learning_rate=1.0),
    client_weight=fr.algorithms.uniform,
)
""",
    "docs/deploying.md": """
from pathlib import Path
import numpy as np
import fedrecon as fr
from fedrecon.models import matrix_factorization
rng = np.random.default_rng(0)
ratings = {
    user: {"item": rng.permutation(30)[:12].astype("int32"), "rating": np.full(12, 3, "float32")}
    for user in range(120)
}
clients, rounds, folder = fr.Clients.from_arrays(ratings), 2, Path("server")
names = clients.ids
sgd = fr.Solver(fr.optimizer("sgd", learning_rate=0.1), batch_size=5)
algorithm = fr.fedrecon(matrix_factorization(30, 4), sgd, sgd, fr.optimizer("sgd", learning_rate=1.0))
store = fr.deployment.Store(clients, Path("node"))
node = fr.deployment.Node(algorithm, store, seed=0, run="spring")


class InOneProcess:
    def exchange(self, messages, seconds):
        return (node.handle(data) for _, data in messages)


transport = InOneProcess()
""",
    "docs/on_device.md": """
from pathlib import Path
import jax
import fedrecon as fr
from fedrecon.export import Subject, export
from fedrecon.models import matrix_factorization
model = matrix_factorization(30, 4, user_penalty=0.1)
step = fr.Solver(fr.optimizer("sgd", learning_rate=0.1), batch_size=5)
algorithm = fr.fedrecon(model, fr.Newton(), step, fr.optimizer("sgd", learning_rate=1.0))
fields = {"item": jax.ShapeDtypeStruct((), "int32"), "rating": jax.ShapeDtypeStruct((), "float32")}
state, top = algorithm.init(jax.random.key(0)), fr.TopK(5, field="item", items=30)
subject = Subject(algorithm, state, fields, {"item": (0, 29), "rating": (0.5, 5.0)}, top)
export(subject, Path("site"), support_max=8)
""",
    "docs/scaling.md": """
import numpy as np
import fedrecon as fr
from fedrecon.models import matrix_factorization
rng = np.random.default_rng(0)
ratings = {
    user: {"item": rng.permutation(1000)[:12].astype("int32"), "rating": np.full(12, 3, "float32")}
    for user in range(20)
}
item_names = [f"film {i}" for i in range(1000)]
pieces = [{k: v for k, v in ratings.items() if k % 2 == part} for part in (0, 1)]
clients, new_clients = (fr.Clients.from_arrays(piece) for piece in pieces)
sgd = fr.Solver(fr.optimizer("sgd", learning_rate=0.1), batch_size=5)
algorithm = fr.fedrecon(matrix_factorization(1000, 4), sgd, sgd, fr.optimizer("sgd", learning_rate=1.0))
""",
}
# Command by command and file by file, as a reader would go through them.
RUN_AS_A_WHOLE = ["docs/tutorials/your_ratings.md", "docs/tutorials/reading_a_report.md"]


def blocks(page: Path) -> list[tuple[str, str]]:
    """Pairs of a language and a block of code."""
    return re.findall(r"^```([a-z]+)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def run(repository, tmp_path):
    """Runs Python in a fresh interpreter, in an empty folder, and gives what it prints."""

    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(repository / "src"), str(tmp_path)])}
        done = subprocess.run(
            [sys.executable, "-W", "error", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize("page", RUN_IN_PYTHON)
def test_python_of_a_page_runs(repository, run, tmp_path, page):
    if page == "docs/tutorials/your_model.md":
        pytest.importorskip("flax", reason="needs the extra flax")
        pytest.importorskip("equinox", reason="needs the extra equinox")
    if page == "docs/on_device.md":
        pytest.importorskip("onnxruntime", reason="needs the extra export")
    code = [RUN_IN_PYTHON[page]]
    # A block that begins with a file's name is a module, which another test runs.
    code += [
        b for language, b in blocks(repository / page) if language == "python" and not b.startswith("# mine/")
    ]
    assert len(code) > 1
    program = tmp_path / "page.py"
    program.write_text("\n".join(code))
    run(program)


@pytest.mark.parametrize("page", RUN_AS_A_WHOLE)
def test_tutorial_runs_from_its_first_command_to_its_last(repository, run, tmp_path, page):
    text = (repository / page).read_text()
    (file_name,) = re.findall(r"Save this as `(.*?)`", text)
    for language, code in blocks(repository / page):
        if language == "toml":
            (tmp_path / file_name).write_text(code)
        elif language == "python":
            (tmp_path / "block.py").write_text(code)
            run(tmp_path / "block.py")
        elif language == "sh":
            for line in code.replace("\\\n", " ").splitlines():
                program, *words = shlex.split(line, comments=True)
                assert program == "fedrecon"
                printed = run("-m", "fedrecon", *words)
                assert printed


def test_tutorial_of_ratings_says_what_comes_out(repository):
    """Its table is near the noise that the page names, and far from what a constant would reach."""
    text = (repository / "docs/tutorials/your_ratings.md").read_text()
    (rmse,) = re.findall(r"^test +examples +([0-9.]+)", text, re.MULTILINE)
    assert 0.33 < float(rmse) < 0.6
