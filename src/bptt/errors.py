"""What goes wrong on the user's side.

InputError(ValueError)   a file, text, shape or setting that cannot be used: rule, what was received, what to do.
SlowEngineWarning        the exact result comes from the slow engine; says why and what would avoid it.

The command line turns InputError into a message and exit code 2; any other exception is a defect of this package.
"""


class InputError(ValueError):
    """Something the user gave cannot be used. The text holds the rule, what was received and what to do."""


class SlowEngineWarning(UserWarning):
    """The sweeps run on the reference engine: same numbers, many times slower."""
