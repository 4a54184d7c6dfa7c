"""What changed since the night before: the model, the users, their scores and bands, features and warnings."""

from collections.abc import Iterator

from pipeline.config.features import user_features
from pipeline.report.formats import format_percent, format_points
from pipeline.report.night import Night
from pipeline.report.parts import Note, Part, Section, Table
from pipeline.text import format_number

MOST_MOVED = 6
"""How many of the features that moved most are listed."""
MIN_MOVE = 0.05
"""A feature is listed if its mean moved by at least this many standard deviations."""


def build(night: Night) -> Section | None:
    if not night.scores or not night.before:
        return None
    parts: list[Part] = [
        Note(text, heading=heading)
        for heading, text in (
            ("Model", _describe_model(night)),
            ("Users", _describe_users(night)),
            ("Warnings", _describe_warnings(night)),
        )
    ]
    return Section(
        "changes",
        "What changed since last night",
        f"Compared with {night.before}, the latest earlier night that has scores. Scores are compared for the users "
        "scored on both nights.",
        [*parts, *_tabulate_scores(night), *_tabulate_features(night)],
    )


def _describe_model(night: Night) -> str:
    ((earlier,),) = night.query("SELECT any_value(model_version) FROM user_scores WHERE ds = $ds", ds=night.before)
    model = (night.scores or {})["model"]
    if model == earlier:
        return f"The same as the night before, {model}."
    return f"New: {model} took over from {earlier}. That alone may move scores."


def _describe_users(night: Night) -> str:
    ((both, gained, lost),) = night.query(
        "SELECT count(*) FILTER (t.user_id IS NOT NULL AND b.user_id IS NOT NULL), "
        "count(*) FILTER (b.user_id IS NULL), count(*) FILTER (t.user_id IS NULL) "
        "FROM (SELECT user_id FROM user_scores WHERE ds = $ds) AS t "
        "FULL JOIN (SELECT user_id FROM user_scores WHERE ds = $before) AS b USING (user_id)",
        ds=night.ds,
        before=night.before,
    )
    return f"{both:,} were scored on both nights, {gained:,} are new, {lost:,} are no longer scored."


def _describe_warnings(night: Night) -> str:
    if not night.warnings:
        return "None tonight."
    new = sum(warning.is_new for warning in night.warnings)
    return f"{len(night.warnings)} tonight, {new} of a kind that last night did not have."


def _tabulate_scores(night: Night) -> Iterator[Table]:
    moved = ", ".join(
        f"avg(b.p_{stage}), avg(t.p_{stage}), avg(CAST(t.band_{stage} > b.band_{stage} AS INT)), "
        f"avg(CAST(t.band_{stage} < b.band_{stage} AS INT)), "
        f"avg(CAST(abs(t.band_{stage} - b.band_{stage}) >= 3 AS INT))"
        for stage in night.stages
    )
    ((count, *values),) = night.query(
        f"SELECT count(*), {moved} FROM user_scores AS t JOIN user_scores AS b USING (user_id) "
        "WHERE t.ds = $ds AND b.ds = $before",
        ds=night.ds,
        before=night.before,
    )
    if not count:
        return
    rows = []
    for stage, (earlier, now, up, down, far) in zip(night.stages, zip(*[iter(values)] * 5, strict=True), strict=True):
        rows.append(
            [
                stage,
                format_percent(now),
                format_points(now - earlier),
                format_percent(up),
                format_percent(down),
                format_percent(far),
            ]
        )
    columns = ["Stage", "Mean score", "Change", "Band up", "Band down", "By 3 or more"]
    yield Table("Scores and bands of the users scored on both nights", columns, rows)


def _tabulate_features(night: Night) -> Iterator[Part]:
    """The numeric features whose mean moved most, in standard deviations of the night before."""
    names = [feature.name for feature in user_features(night.settings) if feature.is_numeric]
    summaries = ", ".join(f'avg("{name}"), stddev_samp("{name}")' for name in names)
    found = {
        day: list(zip(*[iter(values)] * 2, strict=True))
        for day, *values in night.query(
            f"SELECT ds, {summaries} FROM feature_samples WHERE ds IN ($ds, $before) GROUP BY ds",
            ds=night.ds,
            before=night.before,
        )
    }
    if len(found) < 2:
        return
    moves = []
    for name, (now, _), (earlier, deviation) in zip(names, found[night.ds], found[night.before], strict=True):
        if now is not None and earlier is not None and deviation:
            moves.append((abs(now - earlier) / deviation, name, earlier, now))
    listed = [move for move in sorted(moves, reverse=True) if move[0] >= MIN_MOVE][:MOST_MOVED]
    if not listed:
        yield Note(f"No feature's mean moved by more than {MIN_MOVE} standard deviations.", heading="Biggest movers")
        return
    rows = [
        [name, format_number(now, 4), format_number(earlier, 4), f"{by:.2f} sd"] for by, name, earlier, now in listed
    ]
    yield Table("Biggest movers: features by how far their mean moved", ["Feature", "Mean", "Before", "Moved by"], rows)
