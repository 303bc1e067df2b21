"""Settings of how clients' deltas are made smaller and how the server aggregates them."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from fedrecon.experiment.settings.sections import Section, SettingError, setting

if TYPE_CHECKING:
    from fedrecon.algorithms._base import Algorithm


class AggregationSettings(Section):
    """How the server aggregates the clients' deltas; all but "mean" need to see each of them."""

    rule: Literal["mean", "norm_bound", "median", "trimmed_mean", "krum"] = setting(
        "mean", "mean, or a rule that hostile clients sway less: norm_bound, median, trimmed_mean, krum"
    )
    bound: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["median"] = setting(
        "median", "of rule norm_bound: the largest norm of a delta; median for that of the cohort's norms"
    )
    trimmed: float = setting(
        0.2, "of rule trimmed_mean: share of an entry's clients left out at either end", ge=0, le=0.5
    )
    hostile: float = setting(
        0.2, "of rule krum: share of the cohort that is taken to be hostile", ge=0, lt=0.5
    )
    selected: Annotated[int, Field(ge=1)] | Literal["auto"] = setting(
        "auto", "of rule krum: clients whose deltas are averaged; auto for all but the hostile ones"
    )

    def check_effect(self) -> None:
        """Refuses the setting of a rule that is not chosen, which would have no effect.

        Raises:
            SettingError: Naming the setting.
        """
        for name, rule in _RULE_OF.items():
            value, default = getattr(self, name), type(self).model_fields[name].default
            if value != default and self.rule != rule:
                raise SettingError(
                    f"aggregation.{name} must be {default!r}, its default, where aggregation.rule is not "
                    f"{rule!r}, whose setting it is; the rule is {self.rule!r}, got {value!r}"
                )

    def apply(self, algorithm: "Algorithm") -> "Algorithm":
        """An algorithm whose server aggregates by the rule.

        Raises:
            SettingError: The rule does not fit the algorithm.
        """
        if self.rule == "mean":
            return algorithm
        from fedrecon import algorithms

        rules: dict[str, Any] = {
            "norm_bound": lambda: algorithms.NormBound(None if self.bound == "median" else self.bound),
            "median": algorithms.Median,
            "trimmed_mean": lambda: algorithms.TrimmedMean(self.trimmed),
            "krum": lambda: algorithms.Krum(self.hostile, None if self.selected == "auto" else self.selected),
        }
        try:
            return algorithms.robust(algorithm, rules[self.rule]())
        except ValueError as error:
            raise SettingError(f"aggregation.rule: {error}") from None


# The rule to which each setting belongs.
_RULE_OF = {"bound": "norm_bound", "trimmed": "trimmed_mean", "hostile": "krum", "selected": "krum"}


class CompressionSettings(Section):
    """Fewer bytes in what clients send; it protects nobody."""

    bits: Literal[4, 8, 32] = setting(
        32, "bits of an entry: 4 or 8, rounded at random, or 32 for no rounding"
    )
    top: float = setting(1.0, "share of the entries that are sent, the largest ones", gt=0, le=1)
    error_feedback: bool = setting(
        False, "whether clients keep what was not sent and add it the next time; they keep whole tables then"
    )

    def check_effect(self) -> None:
        """Refuses error feedback where nothing is left out.

        Raises:
            SettingError: Naming the setting.
        """
        if self.error_feedback and (self.bits, self.top) == (32, 1.0):
            raise SettingError(
                "compression.error_feedback must be false where all is sent, with compression.bits 32 and "
                "compression.top 1, got true: nothing is left out that clients could keep"
            )

    def apply(self, algorithm: "Algorithm") -> "Algorithm":
        """An algorithm whose clients send as few bytes as these settings say.

        Raises:
            SettingError: The algorithm sends no deltas, or nothing is left out that could be fed back.
        """
        if self == CompressionSettings():
            return algorithm
        from fedrecon.privacy._compression import compressed

        try:
            return compressed(algorithm, self.bits, self.top, self.error_feedback)
        except ValueError as error:
            raise SettingError(f"compression: {error}") from None
