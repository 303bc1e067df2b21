"""What fedrecon raises beside the standard exceptions."""


class DataError(ValueError):
    """Data cannot be used; the message names the file and line or the parameter, the rule and the value."""
