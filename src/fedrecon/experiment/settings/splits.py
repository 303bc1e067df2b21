"""Settings of the splits of a client's examples into support and query set."""

from typing import Annotated, Any, Literal

from pydantic import Field

from fedrecon.experiment.settings.sections import Section, setting

Share = Annotated[float, Field(gt=0, lt=1)]


class AlternateBatchesSettings(Section):
    """Even-numbered batches are support, odd-numbered ones query."""

    name: Literal["alternate_batches"] = "alternate_batches"
    batch_size: int = setting(5, "examples in a batch", ge=1)

    def build(self) -> Any:
        from fedrecon.core._splits import AlternateBatches

        return AlternateBatches(self.batch_size)


class AlternateExamplesSettings(Section):
    """Even-numbered examples are support, odd-numbered ones query."""

    name: Literal["alternate_examples"] = "alternate_examples"

    def build(self) -> Any:
        from fedrecon.core._splits import AlternateExamples

        return AlternateExamples()


class HalfBatchesSettings(Section):
    """The first half of the batches is support, the rest query."""

    name: Literal["half_batches"] = "half_batches"
    batch_size: int = setting(5, "examples in a batch", ge=1)

    def build(self) -> Any:
        from fedrecon.core._splits import HalfBatches

        return HalfBatches(self.batch_size)


class FractionSettings(Section):
    """The first examples are support, the rest query."""

    name: Literal["fraction"] = "fraction"
    support: Share = setting(0.5, "share of the examples that is support")

    def build(self) -> Any:
        from fedrecon.core._splits import Fraction

        return Fraction(self.support)


class RandomFractionSettings(Section):
    """A part of the examples, drawn afresh each round, is support, the rest query."""

    name: Literal["random_fraction"] = "random_fraction"
    support: Share = setting(0.5, "share of the examples that is support")

    def build(self) -> Any:
        from fedrecon.core._splits import RandomFraction

        return RandomFraction(self.support)


class ByTimeSettings(Section):
    """The earliest examples are support, the later ones query."""

    name: Literal["by_time"] = "by_time"
    support: Share = setting(0.5, "share of the examples that is support")
    field: str = setting("time", "field of the examples that holds the time")

    def build(self) -> Any:
        from fedrecon.core._splits import ByTime

        return ByTime(self.support, self.field)


class NoSplitSettings(Section):
    """No split: all examples are support as well as query."""

    name: Literal["none"] = "none"

    def build(self) -> Any:
        from fedrecon.core._splits import NoSplit

        return NoSplit()


SplitSettings = Annotated[
    AlternateBatchesSettings
    | AlternateExamplesSettings
    | HalfBatchesSettings
    | FractionSettings
    | RandomFractionSettings
    | ByTimeSettings
    | NoSplitSettings,
    Field(discriminator="name"),
]
