"""`funnel targets`: a list in numbers, for a person."""

from datetime import timedelta

from pipeline.campaigns.targets import TargetList
from pipeline.measures.control_group import POWER
from pipeline.terminal import TextTable


def print_list(targets: TargetList) -> None:
    """Print a list in numbers: users by arm and reason, what to expect of the targets, what can be measured."""
    version = f"version {targets.version}" if targets.is_new else f"same as version {targets.version}"
    print(f"\n{targets.campaign}, to be sent on {targets.ds + timedelta(days=1)}: {version}")
    table = TextTable("arm", "reason")
    table.add_column("users", is_number=True)
    for (arm, reason), users in targets.users.items():
        table.add_row(arm, reason, f"{users:,}")
    table.print()
    print(
        f"{targets.targets:,} messages: {targets.expected_outcomes:,.1f} {targets.goal} expected, "
        f"cost {targets.cost:,.2f}, expected value net of cost {targets.expected_value:,.2f}"
    )
    if targets.smallest_uplift is None:
        print("no control group to show what the messages cause: the campaign's control_share is 0")
    else:
        print(
            f"the control group of {targets.controls:,} shows what the messages cause "
            f"if that is {targets.smallest_uplift:.0%} of the outcomes or more ({POWER:.0%} power, 5% level)"
        )
