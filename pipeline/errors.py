"""Errors a person can fix. The command line prints them in one line, without a traceback."""

from pipeline.text import show


class FunnelError(Exception):
    """Bad input, configuration or environment. The message is one line: what, where, what to do.

    Control characters in it, which may come from the data, are escaped.

    Args:
        stage: the stage that failed, if the message begins with it and its dates.
    """

    def __init__(self, message: str, *, stage: str | None = None) -> None:
        super().__init__(show(message, keep="\n"))
        self.stage = stage


class ConfigError(FunnelError):
    """The configuration file or a `FUNNEL_…` variable is wrong."""


class AuditError(FunnelError):
    """A critical expectation failed on staged files; the table is unchanged."""


class TransientError(FunnelError):
    """A failure that may pass by itself, such as a lost race or an unreachable host: worth retrying."""


class Terminated(BaseException):
    """SIGTERM has told the process to end. No Exception, so that nothing takes it for a failure to go on from."""

    def __init__(self, message: str = "stopped by SIGTERM") -> None:
        super().__init__(message)


def describe_error(error: BaseException) -> str:
    """Describe an error in one line; one raised in Java by its own message and that of its root cause."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped by Ctrl-C"
    java = getattr(error, "java_exception", None)
    if java is None:
        return show((str(error).strip().splitlines() or [type(error).__name__])[0])
    messages = [java.toString().splitlines()[0]]
    while (java := java.getCause()) is not None:
        messages.append(java.toString().splitlines()[0])
    return show(messages[0] if len(messages) == 1 else f"{messages[0]} ({messages[-1]})")
