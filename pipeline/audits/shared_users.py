"""Whether events and profiles know each other's users: one key that is spelt in two ways shares none."""

from dataclasses import dataclass

from pipeline.audits.findings import Finding

FEWEST_USERS = 5
"""With fewer users on either side, chance alone can explain that they share none."""


@dataclass(frozen=True)
class SharedUsers:
    """The users with events on some days, and those among them who have a profile.

    Args:
        with_events: how many users have events.
        shared: how many of them have a profile.
        with_profiles: how many users have a profile.
        of_events, of_profiles: an id of each; None without any.
    """

    with_events: int
    shared: int
    with_profiles: int
    of_events: str | None
    of_profiles: str | None

    @property
    def is_impossible(self) -> bool:
        """Whether they share none although each has enough to share."""
        return not self.shared and min(self.with_events, self.with_profiles) >= FEWEST_USERS

    def is_low(self, min_share: float) -> bool:
        return bool(self.with_events and self.with_profiles) and self.shared < min_share * self.with_events

    def __str__(self) -> str:
        return (
            f"{self.shared:,} of {self.with_events:,} users with events have a profile, such as {self.of_events!r} in "
            f"events and {self.of_profiles!r} in users; if one user is spelt in two ways, make user_id in "
            "source.events.columns and source.users.columns agree"
        )


def audit_shared_users(found: SharedUsers, *, min_share: float) -> Finding:
    """Check that enough users with events have a profile: few are a warning, none a failure."""
    is_low = found.is_low(min_share)
    return Finding(
        audited="users",
        name="users_are_shared_with_events",
        expectation=f"users_are_shared_with_events(min_share={min_share:g})",
        columns="user_id",
        severity="critical",
        status="failed" if is_low and found.is_impossible else "warning" if is_low else "ok",
        observed=f"{found} (audit.min_shared_users = {min_share:g})" if is_low else None,
        is_sentence=True,
    )
