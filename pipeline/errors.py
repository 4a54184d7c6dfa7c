"""What can go wrong in a way that a person can mend: one class, one line, no traceback."""


class FunnelError(Exception):
    """A mistake in input, configuration or surroundings. Its message is one line: what, where, what to do."""


class ConfigError(FunnelError):
    """The configuration file or a `FUNNEL_…` variable is wrong."""


class AuditError(FunnelError):
    """A critical expectation failed on staged files; the table was left as it was."""


class TransientError(FunnelError):
    """What may pass by itself, such as a lost race or a host that is away: worth trying again later."""


def describe_error(error: BaseException) -> str:
    """What an error says, without its trace; of one that came from Java, what Java says, and of what cause."""
    java = getattr(error, "java_exception", None)
    if java is None:
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    said = [java.toString().splitlines()[0]]
    while (java := java.getCause()) is not None:
        said.append(java.toString().splitlines()[0])
    return said[0] if len(said) == 1 else f"{said[0]} ({said[-1]})"
