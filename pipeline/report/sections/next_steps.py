"""Where to look next: queries that go on from the report."""

from pipeline.report.night import Night
from pipeline.report.parts import Command, Section


def build(night: Night) -> Section:
    last = night.stages[-1]
    is_stopped = any(run["stage"] == "ingest" for run in night.failures)
    rejected = "stopped_quarantine" if is_stopped else "quarantine"
    commands = [
        Command(
            "What was rejected, and why:",
            f'funnel sql "SELECT reason, count(*), any_value(raw) FROM {rejected}\n'
            f"            WHERE landed_on = '{night.ds}' GROUP BY reason\"",
        ),
        Command(
            "Every run of this night, including failed ones:",
            f'funnel sql "SELECT stage, status, started_at, seconds, message FROM runs\n'
            f"            WHERE ds = '{night.ds}' ORDER BY started_at\"",
        ),
    ]
    if night.scores:
        commands.insert(
            0,
            Command(
                "The most promising users, by their last-stage score:",
                f'funnel sql "SELECT user_id, p_{last}, band_{last} FROM user_scores\n'
                f"            WHERE ds = '{night.ds}' ORDER BY p_{last} DESC LIMIT 1000\" --format csv",
            ),
        )
    return Section("next", "Where to look next", "Run these in the folder of the funnel's configuration.", commands)
