"""`bptt` called from a test."""

import shlex

from typer.testing import CliRunner

from bptt.cli import app


def bptt(command: str, code: int = 0) -> str:
    """stdout of the command, or stderr where another exit code than 0 is expected."""
    result = CliRunner().invoke(app, shlex.split(command), prog_name="bptt")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stderr if code else result.stdout
