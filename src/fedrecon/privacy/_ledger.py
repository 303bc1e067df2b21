"""What was released of a run, and what it tells of one client."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import ROUND_UP, Context
from typing import Any

# What the guarantee says nothing about, for every run.
NOT_COVERED = (
    "evaluations on training clients, and what is chosen by them",
    "evaluations of validation and test clients, whose numbers are of their own data",
    "selecting the best of several rounds or runs by such evaluations",
    "the size of a cohort and the bytes that it exchanges",
    "what an audit writes, which are exact results of attacks on training clients",
    "a client's own recommendations, and what the client asks for because of them",
    "a person with several devices, who counts as several clients",
)


@dataclass(frozen=True)
class Ledger:
    """The privacy of what was released so far.

    The releases are (epsilon, delta)-differentially private for each client: whoever sees them can hardly
    tell whether they were made from these clients or from neighbouring ones.

    Attributes:
        epsilon: The epsilon of all releases together.
        delta: The delta of all releases together.
        unit: The unit whose data are protected: `"client"`, all examples of one client.
        relation: The sets of clients that are neighbours, one of the values of
            `fedrecon.privacy.Accounting.relation`.
        observer: The observer against whom the guarantee holds: `"model"`, who sees the released parameters
            and not who took part; `"server"`, who also knows who takes part.
        mechanism: A description of the mechanism that protects the releases.
        accountant: The name of the accountant that computes epsilon.
        noise_multiplier: The standard deviation of the noise, in units of the clipping bound.
        sensitivity: The most by which neighbours' sums differ, in the Euclidean norm of deltas.
        clip: The joint bound on the norm of a client's delta.
        sampling: A description of how cohorts are drawn, the `repr` of the sampling.
        releases: The number of noised sums that were released so far.
        public_inputs: The inputs other than the noised sums that the parameters depend on, each with its
            public source.
        not_covered: The things that the guarantee says nothing about, a phrase for each; by default those of
            every run.
        delta_noise_multiplier: The standard deviation of the noise on the sum of deltas, in units of the
            clipping bound: more than `noise_multiplier` where counts take a part of the privacy loss. None,
            the default, in ledgers of earlier versions, which did not note it.
    """

    epsilon: float
    delta: float
    unit: str
    relation: str
    observer: str
    mechanism: str
    accountant: str
    noise_multiplier: float
    sensitivity: float
    clip: float
    sampling: str
    releases: int
    public_inputs: Mapping[str, str]
    not_covered: tuple[str, ...] = NOT_COVERED
    # Not in the repr, by which fingerprints of runs that start from a private one know its ledger.
    delta_noise_multiplier: float | None = field(default=None, repr=False)

    def values(self) -> dict[str, Any]:
        """The ledger as JSON values."""
        return {
            **{part.name: getattr(self, part.name) for part in fields(self)},
            "public_inputs": dict(self.public_inputs),
            "not_covered": list(self.not_covered),
        }

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "Ledger":
        """The ledger of JSON values; the inverse of `values`.

        Args:
            values: The mapping that `values` returned; JSON has null in it for an infinite epsilon. Entries
                that only a later version writes are ignored.
        """
        present = {part.name: values[part.name] for part in fields(cls) if part.name in values}
        epsilon = math.inf if present["epsilon"] is None else present["epsilon"]
        return cls(**{**present, "epsilon": epsilon, "not_covered": tuple(present["not_covered"])})

    def __str__(self) -> str:
        """The ledger in a sentence: what is promised, to whom, and against whom."""
        seen = "the released parameters" if self.observer == "model" else "them and who takes part"
        return (
            f"epsilon {rounded_up(self.epsilon)} at delta {self.delta:g} for {_RELATIONS[self.relation]}, "
            f"against whoever sees {seen}; {self.releases:,} releases with {self._noise}"
        )

    @property
    def _noise(self) -> str:
        together, noted = f"{self.noise_multiplier:.4g} times", self.delta_noise_multiplier
        on_deltas = together if noted is None else f"{noted:.4g} times"
        if on_deltas == together:
            return f"noise of {together} the bound {self.clip:g}"
        return (
            f"noise of {on_deltas} the bound {self.clip:g} on deltas, and with noised counts, "
            f"together as private as deltas alone with {together}"
        )


_RELATIONS = {
    "add_or_remove": "adding or removing one client",
    "replace_one": "replacing one client",
    "zero_out": "one client's contributions becoming 0",
}


def rounded_up(epsilon: float) -> str:
    """An epsilon with four digits, so that it is never shown smaller than it is: `"3.999"`."""
    if not math.isfinite(epsilon):
        return str(epsilon)
    return format(Context(prec=4, rounding=ROUND_UP).create_decimal(epsilon).normalize(), "f")
