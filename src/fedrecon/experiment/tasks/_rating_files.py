"""Settings of tasks that read rating files: how the file is written, and which of its columns are read."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fedrecon.datasets.ratings._reader_options import Reading
from fedrecon.experiment.settings.sections import FaultySettingError, Section, setting

_CLIENT_FILE = ".arrow"


def _is_client_file(path: str) -> bool:
    from fedrecon.data._client_file.file import is_client_file

    return bool(path) and is_client_file(path)


ColumnSetting = str | Annotated[int, Field(ge=1)]


class ColumnSettings(Section):
    """Columns of a file that is not MovieLens' own: their names or, without a header, positions from 1."""

    client: ColumnSetting = setting("", 'column of the user; "" if the file is MovieLens\' own')
    item: ColumnSetting = setting("", 'column of the item; "" if the file is MovieLens\' own')
    rating: ColumnSetting = setting(
        "", 'column of the rating; "" if the file is MovieLens\' own, or has items alone'
    )
    time: ColumnSetting = setting("", 'column of the time; "" for none')

    def given(self) -> dict[str, str | int]:
        """The columns that are named, by their roles."""
        return {role: column for role, column in self.model_dump().items() if column}


class RatingFileSettings(Section):
    """The rating file and how it is written."""

    path: str = setting(
        "", 'a rating file, or the folder or archive it is in; "" downloads MovieLens 1M once'
    )
    separator: Literal["", ",", ";", "\t", "|", " ", "::"] = setting(
        "", 'what separates the fields of a text; "" for what its first line shows'
    )
    encoding: str = setting("utf-8", 'encoding of a text, such as "latin-1"')
    unrated: float | Literal["none"] = setting(
        "none", 'rating that stands for none, whose rows are left out, such as 0; "none" if there is no such'
    )
    unpacked_gib: float = setting(
        2.0, "GiB that a packed file (.gz, .zip, Parquet) may unpack to", gt=0, allow_inf_nan=False
    )
    columns: ColumnSettings = ColumnSettings()

    @model_validator(mode="after")
    def _as_the_reader_takes_them(self) -> "RatingFileSettings":
        fault = self._fault()
        # Client files and folders of them have their own columns, for whatever these settings say. A file is
        # looked at where there is a fault alone, since settings are also read where their data are not.
        if fault is not None and not (self.path.endswith(_CLIENT_FILE) or _is_client_file(self.path)):
            raise fault
        return self

    def _fault(self) -> FaultySettingError | None:
        """What the reader of rating files would refuse in these settings, if anything."""
        given = self.columns.given()
        for role in ("client", "item"):
            if given and role not in given:
                rule = f"must name the column of the {role} where others are named, got {given}"
                return FaultySettingError(f"columns.{role}", rule)
        options = self.reading()
        del options["unpacked_gib"]
        try:
            Reading.of(scale=getattr(self, "scale", None) or None, duplicates="all", **options)
        except ValueError as error:
            # The reader's messages begin with the name of the argument, which is that of the setting.
            name, _, rule = str(error).partition(" ")
            return FaultySettingError(name, rule)
        return None

    def reading(self) -> dict[str, Any]:
        """The arguments of `fedrecon.datasets.ratings.prepare` and `load` that say how the file is read."""
        return {
            "columns": self.columns.given() or None,
            "separator": self.separator,
            "encoding": self.encoding,
            "unrated": None if self.unrated == "none" else self.unrated,
            "unpacked_gib": self.unpacked_gib,
        }

    def describe_source(self) -> str:
        """How the file is read, in a few words for a person; "" where MovieLens 1M is downloaded.

        Raises:
            DataError: The file cannot be read.
        """
        from fedrecon.data._client_file.file import is_client_file
        from fedrecon.datasets.ratings._prepare import describe_source

        if not self.path:
            return ""
        return "a client file" if is_client_file(self.path) else describe_source(self.path, **self.reading())

    def notes(self) -> dict[str, str]:
        """Notes for the reader of a result: how a file is read whose columns are one's own."""
        return {"Ratings read as": self.describe_source()} if self.path and self.columns.client else {}
