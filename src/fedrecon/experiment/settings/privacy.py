"""Settings of user-level differential privacy."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from fedrecon.experiment.settings.sections import Section, SettingError, setting

if TYPE_CHECKING:
    from fedrecon.algorithms._base import Algorithm
    from fedrecon.data._sampling import Sampling
    from fedrecon.privacy._ledger import Ledger

Positive = Annotated[float, Field(gt=0)] | Literal["none"]


class PrivacySettings(Section):
    """User-level differential privacy: on where epsilon or noise_multiplier is a number."""

    epsilon: Positive = setting("none", "calibrates the noise to the planned rounds")
    noise_multiplier: Positive = setting("none", "deviation of the noise over clip, in place of epsilon")
    budget: Positive = setting("none", "with noise_multiplier: epsilon at which training stops")
    delta: Positive = setting("none", "delta of the guarantee, below 1 / training clients")
    clip: Positive = setting("none", "bound on the norm of a client's delta")
    observer: Literal["model", "server"] = setting(
        "model", "who epsilon holds against: sees released parameters, or knows who takes part, too"
    )

    noise_bands: Annotated[int, Field(ge=1)] | Literal["auto"] = setting(
        "auto",
        "rounds over which noise is correlated, with fixed_passes; auto for what is best there, and for 1 "
        "elsewhere and with clip_quantile or row_selection",
    )
    clip_quantile: Annotated[float, Field(gt=0, lt=1)] | Literal["none"] = setting(
        "none", "share of clients within the bound, which then follows their norms from clip on"
    )
    row_selection: Annotated[float, Field(gt=0, lt=1)] | Literal["none"] = setting(
        "none",
        "share of the privacy loss that is spent on selecting rows; the deltas of the others become 0",
    )
    row_threshold: float = setting(
        3.0,
        "least noised count of contributors of a selected row, in deviations of its noise",
        allow_inf_nan=False,
    )
    min_contributors: Annotated[int, Field(ge=1)] | Literal["none"] = setting(
        "none", "without noise: least clients of a cohort that change a row; no guarantee, and no epsilon"
    )
    unprotected_metrics: bool = setting(
        False,
        "record training metrics of the clients in metrics_unprotected.csv, which epsilon does not cover",
    )

    @property
    def on(self) -> bool:
        """Whether clients are protected by noise; a least number of contributors is no such protection."""
        return self.model_copy(update={"min_contributors": "none"}) != PrivacySettings()

    def check_effect(self) -> None:
        """Refuses a setting of the selection of rows where no rows are selected.

        Raises:
            SettingError: Naming the setting.
        """
        default = type(self).model_fields["row_threshold"].default
        if self.row_selection == "none" and self.row_threshold != default:
            raise SettingError(
                f"privacy.row_threshold must be {default!r}, its default, where privacy.row_selection is "
                f"'none', got {self.row_threshold!r}: it is a threshold on the counts that select rows"
            )

    def without_noise(self, algorithm: "Algorithm") -> "Algorithm":
        """An algorithm with what these settings ask for where no noise is: the least number of contributors.

        Args:
            algorithm: The algorithm, which is returned as it is where nothing is asked for.

        Raises:
            SettingError: The algorithm has no rows to count.
        """
        from fedrecon.privacy._row_selection import with_min_contributors

        if self.min_contributors == "none":
            return algorithm
        try:
            return with_min_contributors(algorithm, self.min_contributors)
        except ValueError as error:
            raise SettingError(f"privacy.min_contributors: {error}") from None

    def protect(
        self,
        algorithm: "Algorithm",
        rounds: int,
        sampling: "Sampling",
        num_clients: int,
        public_inputs: dict[str, str],
        earlier: "Ledger | None" = None,
    ) -> "Algorithm":
        """An algorithm with the clipping and the noise that these settings ask for.

        Args:
            algorithm: The algorithm without privacy.
            rounds: The number of planned rounds.
            sampling: The sampling of cohorts, on which the accounting depends.
            num_clients: The number of training clients.
            public_inputs: The sources of all that the run depends on beside its clients' deltas, by what they
                are of.
            earlier: The ledger of the private run that the parameters come from; None, the default, for none.

        Raises:
            SettingError: A setting is missing or cannot be accounted for; the message says why.
        """
        from fedrecon.privacy._row_selection import RowSelection
        from fedrecon.privacy._user_level import user_level_dp

        if self.min_contributors != "none":
            raise SettingError(
                f"privacy.min_contributors must be 'none' where epsilon or noise_multiplier is given, got "
                f"{self.min_contributors}: a count without noise is no guarantee, and not in the ledger; set "
                f"privacy.row_selection in its place"
            )
        if self.clip == "none":
            raise SettingError("privacy.clip must be a number where clients are protected, got 'none'")
        epsilon, noise_multiplier, budget, delta = (
            None if value == "none" else value
            for value in (self.epsilon, self.noise_multiplier, self.budget, self.delta)
        )
        select_rows = None
        if self.row_selection != "none":
            select_rows = RowSelection(self.row_selection, self.row_threshold)
        try:
            return user_level_dp(
                algorithm,
                clip=self.clip,
                rounds=rounds,
                sampling=sampling,
                num_clients=num_clients,
                delta=delta,
                epsilon=epsilon,
                noise_multiplier=noise_multiplier,
                budget=budget,
                observer=self.observer,
                public_inputs=public_inputs,
                noise_bands=None if self.noise_bands == "auto" else self.noise_bands,
                earlier=earlier,
                clip_quantile=None if self.clip_quantile == "none" else self.clip_quantile,
                unprotected_metrics=self.unprotected_metrics,
                select_rows=select_rows,
            )
        except (ValueError, TypeError, ModuleNotFoundError) as error:
            raise SettingError(f"privacy: {error}") from None
