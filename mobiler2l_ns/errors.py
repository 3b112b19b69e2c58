"""Errors a user can cause."""


class UserError(SystemExit):
    """Ends a command with one line that says what is wrong and what to do, and exit status 1."""
