"""Tables whose columns are the same for every funnel: what ran, what was measured and checked, and whom to text."""

import pyarrow as pa

from pipeline.warehouse.schema import DATE, DOUBLE, INT, LONG, STRING, TIMESTAMP, Column, Table

RUN_ID = Column("run_id", STRING, "The run that wrote the row; joins to runs.run_id.")

RUNS = Table(
    "runs",
    "One date of one stage of one run. A rerun adds rows; the newest started_at counts.",
    (
        Column("run_id", STRING, "The run: one command, or one run of a DAG."),
        Column("stage", STRING, "What ran: ingest, activity, score, publish, monitor, examples, train, targets, …"),
        Column("status", STRING, "ok or failed."),
        Column("rows_in", LONG, "Rows read: rows_out + duplicates + quarantined where the stage rejects rows."),
        Column("rows_out", LONG, "Rows kept or written."),
        Column("duplicates", LONG, "Rows dropped because their key had landed already."),
        Column("quarantined", LONG, "Rows rejected into quarantine."),
        Column("values_in", pa.map_(STRING, LONG), "Mapped column, such as users.age, to the rows that had a value."),
        Column("unreadable", pa.map_(STRING, LONG), "Mapped column to the values of values_in that could not be read."),
        Column("unreadable_examples", pa.map_(STRING, STRING), "Mapped column to one of its unreadable values."),
        Column("seconds", DOUBLE, "Duration in seconds; a range of dates shares it equally among its dates."),
        Column("started_at", TIMESTAMP, "When the stage began."),
        Column("inputs", pa.map_(STRING, LONG), "Table name to the Iceberg snapshot that the stage read of it."),
        Column("output_snapshot", LONG, "The Iceberg snapshot that the stage published; null: it published none."),
        Column("model_version", STRING, "The model that was used or made; null: none was."),
        Column("code_version", STRING, "The version of Funnelcast that ran."),
        Column("warnings", STRING, "Warnings, one per line; empty: none."),
        Column("warning_topics", STRING, "What each warning is about, one per line in the order of warnings."),
        Column("message", STRING, "Why the stage failed, in one line; empty unless status is failed."),
        Column("ds", DATE, "The date that the stage ran for: a night, a landing day, or the as_of of a training."),
    ),
)

METRICS = Table(
    "metrics",
    "One figure of a night or of a model's training, by stage or feature where it has one.",
    (
        Column("name", STRING, "The figure: held_out_auc, score_psi, matured_auc, rows_landed, …"),
        Column("stage", STRING, "The stage that the figure is about; null: none."),
        Column(
            "feature",
            STRING,
            "What it is about: a feature, an expert, a mapped column such as users.age; null: none.",
        ),
        Column("model_version", STRING, "The model that the figure is about; null: none."),
        Column("value", DOUBLE, "The figure, in its own unit: a count, a share from 0 to 1, an index, hours."),
        Column("past", STRING, "The threshold that the figure is past when measured, warn or stop; null: none."),
        RUN_ID,
        Column("ds", DATE, "The night measured, or the date that the model was trained as of."),
    ),
)

AUDITS = Table(
    "audits",
    "One expectation checked before a commit.",
    (
        Column("audited", STRING, "What was checked: events, user_scores, …"),
        Column("expectation", STRING, "The expectation's name and arguments."),
        Column("columns", STRING, "The columns it is about, separated by commas; empty: the whole table."),
        Column("severity", STRING, "What its failure is: critical, warning or info."),
        Column("status", STRING, "ok, warning (it failed, the run went on) or failed (it failed and stopped the run)."),
        Column("observed", STRING, "What was found instead, with up to five offending rows; null where it holds."),
        Column("checked_at", TIMESTAMP, "When the findings were recorded."),
        RUN_ID,
        Column("ds", DATE, "The night; for a range of dates checked as one, its last date."),
    ),
)

BASELINES = Table(
    "baselines",
    "One bin of a feature's, or of a stage's scores', distribution when the model was trained.",
    (
        Column("model_version", STRING, "The model whose baseline it is."),
        Column("stage", STRING, "The stage whose calibrated scores are binned; null for a feature."),
        Column("feature", STRING, "The feature that is binned; null for a stage's scores."),
        Column("bin", INT, "0: missing values. The last: what lies in no other bin. In between: the bins in order."),
        Column("upper", DOUBLE, "A number's upper bound of the bin, inclusive; null for the first and last bin."),
        Column("value", STRING, "A category's value; null for a number and for the first and last bin."),
        Column("rows", LONG, "Sampled users in the bin."),
        RUN_ID,
        Column("ds", DATE, "The date that the model was trained as of."),
    ),
)

TARGETS = Table(
    "targets",
    "One known user on one version of a campaign's list: an arm and the reason for it.",
    (
        Column("campaign_id", STRING, "The campaign's name in the configuration."),
        Column("version", INT, "1, 2, …: a run that gives other rows adds a version, and a version never changes."),
        Column("user_id", STRING, "The user."),
        Column("arm", STRING, "target (texted), control, holdout (texted by no campaign) or suppressed."),
        Column("reason", STRING, "Why: selected, control, holdout, or the first rule that suppressed the user."),
        Column("rank", LONG, "1 is the highest expected value among users that no rule excludes; null: a rule does."),
        Column("expected_value", DOUBLE, "Sum of worth × probability, less the SMS, in money; null: not scored."),
        Column("goal", STRING, "The stage that the campaign is judged by."),
        Column("p_goal", DOUBLE, "Calibrated probability of the goal if texted, 0 to 1; null: not scored."),
        Column("band_goal", INT, "Band of the goal's score, 1 to 10, 10 the best tenth; null: not scored."),
        Column("send_on", DATE, "The day the messages go out: the day after ds."),
        Column("sms_cost", DOUBLE, "Cost of one message, in money."),
        Column("model_version", STRING, "The model behind the scores; null: not scored."),
        RUN_ID,
        Column("made_at", TIMESTAMP, "When the version was written."),
        Column("ds", DATE, "The night whose scores the list uses."),
    ),
)

EXPORTS = Table(
    "exports",
    "One exported file of one version of a campaign's list.",
    (
        Column("campaign_id", STRING, "The campaign's name in the configuration."),
        Column("version", INT, "The list's version in targets."),
        Column("path", STRING, "Where the file is: an absolute path or a URI."),
        Column("users", LONG, "User ids in the file: the version's targets who could still be texted."),
        Column("withdrawn", LONG, "Targets left out: they had withdrawn consent since. Null: not checked, as once."),
        Column("completed", LONG, "Other targets left out: they had completed since. Null: not checked, as once."),
        Column("landed_until", DATE, "The newest landing day that the targets were checked against; null: none."),
        Column("sha256", STRING, "SHA-256 of the file's content, in hexadecimal."),
        Column("exported_at", TIMESTAMP, "When the export was recorded."),
        RUN_ID,
        Column("ds", DATE, "The night of the list."),
    ),
)

ERASURES = Table(
    "erasures",
    "One user who was erased, or is being erased: by a hash, so that ingest leaves the user out, and no id.",
    (
        Column("erasure_id", STRING, "The erasure: one `funnel erase`, with all users that it was given."),
        Column("status", STRING, "begun or done; an erasure that was finished has both rows of each user."),
        Column("salt", STRING, "What the hash begins with: the same for the whole company."),
        Column("user_hash", STRING, "SHA-256 of salt and user id, in hexadecimal."),
        Column("models", STRING, "Models trained on any of the erasure's users, separated by commas; null until done."),
        Column("files_scanned", LONG, "Files that were read at the end and had none of the ids; null until done."),
        Column("recorded_at", TIMESTAMP, "When the row was written."),
        Column("ds", DATE, "The date of the erasure."),
    ),
)
