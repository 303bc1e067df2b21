"""What fedrecon raises beside the standard exceptions."""


class DataError(ValueError):
    """A data file or its cache cannot be used; the message names the file, the line, the rule and the value."""
