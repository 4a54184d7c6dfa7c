"""How a `funnel` command ended."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line of a command that failed; anything more, or a traceback, is a failure of the test."""
        assert self.code == 1, f"exit code {self.code}: {self.out}{self.err}"
        lines = self.err.splitlines()
        assert len(lines) == 1, f"not one line: {self.err}"
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")
