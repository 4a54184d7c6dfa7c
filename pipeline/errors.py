"""What can go wrong in a way that a person can mend: one class, one line, no traceback."""


class FunnelError(Exception):
    """A mistake in input, configuration or surroundings. Its message is one line: what, where, what to do."""


class ConfigError(FunnelError):
    """The configuration file or a `FUNNEL_…` variable is wrong."""


class AuditError(FunnelError):
    """A critical expectation failed on staged files; the table was left as it was."""
