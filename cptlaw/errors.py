"""The one exception a user is meant to read."""


class UserError(Exception):
    """Something the user can mend: a path, row, column, field, flag or ratio.

    The message says what is wrong, where, and what to do. The command line prints it
    without a traceback and exits with code 2.
    """
