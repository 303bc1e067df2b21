"""The evaluations of a run, and the compilation of their programs beside the first rounds."""

from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread

from fedrecon.algorithms._base import ServerState
from fedrecon.data._clients import Clients
from fedrecon.evaluation._evaluate import measure
from fedrecon.evaluation._evaluation import Evaluation
from fedrecon.evaluation._rating_baselines import WithBaselines, split_baselines
from fedrecon.experiment.training.run_spec import RunSpec
from fedrecon.simulation._block_plan import Plan
from fedrecon.simulation._block_shape import evaluation_plan
from fedrecon.simulation._client_state_store import ClientStateStore
from fedrecon.simulation._simulation import Simulation


class Evaluator:
    """Evaluates the sets of clients of a run.

    Args:
        spec: The specification of the run.
        simulation: The simulation of the run, whose client states evaluations use.
        state: Returns the server's present state.

    Attributes:
        begun: Is set after the first round. What may be done later, such as compiling, waits for it, so that
            it does not delay that round.
    """

    def __init__(self, spec: RunSpec, simulation: Simulation, state: Callable[[], ServerState]):
        self.begun = Event()
        self._spec, self._simulation, self._state = spec, simulation, state
        self._scoring = spec.scoring
        if spec.baselines is not None:
            self._scoring = WithBaselines(spec.scoring, spec.baselines)
        self._baselines: dict[str, dict[str, Evaluation]] = {}
        self._ahead = Thread(target=self._compile)

    def compile_ahead(self) -> None:
        """Starts a thread that compiles the programs of the evaluations once the first round is done."""
        self._ahead.start()

    @property
    def is_compiling(self) -> bool:
        """Whether that thread is running."""
        return self._ahead.is_alive()

    def join(self) -> None:
        """Waits for that thread, if it was started."""
        if self._ahead.ident is not None:
            self._ahead.join()

    def evaluate(self, state: ServerState, client_states: ClientStateStore | None, name: str) -> Evaluation:
        """Evaluates all clients of a set, under the protocol that its name tells.

        Args:
            state: The server's state, whose parameters are evaluated.
            client_states: The states of clients; None for a stateless algorithm.
            name: The name of the set.
        """
        if self.is_compiling:
            self._ahead.join()
        evaluation = self._evaluate(state, client_states, name, self._spec.evaluated[name])
        if self._spec.baselines is None:
            return evaluation
        # The baselines do not depend on the state, so that those of any evaluation are those of the last.
        evaluation, self._baselines[name] = split_baselines(evaluation)
        return evaluation

    def baselines(self, name: str) -> dict[str, Evaluation]:
        """What each baseline reaches on a set of clients that was evaluated; {} where the task has none.

        Args:
            name: The name of the set.
        """
        return self._baselines.get(name, {})

    def while_training(self, state: ServerState) -> dict[str, Evaluation]:
        """Evaluates all sets that are evaluated while training, by their names."""
        client_states = self._simulation.client_states
        return {name: self.evaluate(state, client_states, name) for name in self._spec.while_training()}

    def _compile(self) -> None:
        """Evaluates one client of each set under the plan of all, which compiles the program for all.

        An error is not reported here: it occurs again when the evaluation is needed, and is raised there.
        """
        spec = self._spec
        self.begun.wait()
        with suppress(Exception):
            client_states = self._simulation.client_states
            for name in (*spec.while_training(), *spec.at_the_end()):  # often the same program
                clients = spec.evaluated[name]
                if client_states is not None and client_states.knows(clients.keys):
                    # Clients with states are evaluated by another program, which cannot be run here, since
                    # the rounds change the states meanwhile.
                    continue
                plan = evaluation_plan(spec.algorithm, self._state().global_params, clients.num_examples)
                for _, positions in plan.fitting(clients.num_examples):  # each slot has a program
                    self._evaluate(self._state(), None, name, clients.take(positions[:1]), plan)

    def _evaluate(
        self,
        state: ServerState,
        client_states: ClientStateStore | None,
        name: str,
        clients: Clients,
        plan: Plan | None = None,
    ) -> Evaluation:
        """Evaluates some clients of a set, under the protocol that its name tells."""
        spec = self._spec
        return measure(
            spec.algorithm,
            state,
            clients,
            split=spec.split_of(name),
            seed=spec.seed,
            plan=plan,
            client_states=client_states,
            scoring=self._scoring,
        )
