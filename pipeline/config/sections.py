"""The sections of the configuration that have defaults throughout: where things are kept, how a model is trained, …"""

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveInt, SecretStr, field_validator, model_validator

from pipeline.config.base import ConfigSection, Identifier, Properties, Share

Architecture = Literal["shared_bottom", "l2_constrained", "cross_stitch", "omoe", "mmoe", "ple", "aitm", "esmm"]

S3A = "org.apache.hadoop.fs.s3a.S3AFileSystem"
"""Hadoop's file system for S3, which is in `hadoop-aws`."""


def _check_ratios(value: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= value[0] <= value[1]:
        raise ValueError("the lowest and the highest ratio in this order, such as [0.3, 3.0]")
    return value


Ratios = Annotated[tuple[float, float], AfterValidator(_check_ratios)]


class Warehouse(ConfigSection):
    """`[warehouse]`: the Iceberg tables."""

    path: str = "warehouse"
    """The folder of the tables and their SQLite catalog, as long as `catalog` is empty."""
    namespace: Identifier = "funnel"
    """The Iceberg namespace of the tables."""
    catalog: Properties = Field(default={})
    """Properties of any PyIceberg catalog, such as `{ type = "rest", uri = "https://…", warehouse = "s3://…" }`; empty
    means SQLite under `path`. See [Another catalog](#another-catalog)."""

    @model_validator(mode="after")
    def _check_path(self) -> "Warehouse":
        if "://" in self.path and not self.catalog:
            raise ValueError(
                f"path: got {self.path!r}, takes a local folder; tables on an object store need a catalog, such as "
                'catalog = { type = "sql", uri = "postgresql+psycopg2://…", warehouse = "s3://…" }'
            )
        return self


class Storage(ConfigSection):
    """`[storage]`: the object store that `s3://…` addresses mean, whoever reads or writes them: the warehouse, the
    source, reports and lists. What `warehouse.catalog` and `spark.conf` say of the store wins there.
    """

    endpoint: str | None = None
    """The address of a store other than Amazon's, such as `https://minio.example.com:9000`."""
    region: str | None = None
    """The store's region; with an `endpoint`, `us-east-1` unless given."""
    access_key: SecretStr | None = None
    """Without keys, whatever AWS's own settings say counts: variables, files, the machine's role."""
    secret_key: SecretStr | None = None
    """The access key's secret, best in `FUNNEL_STORAGE__SECRET_KEY`."""
    session_token: SecretStr | None = None
    """Of keys that expire."""
    path_style: bool = True
    """Whether the bucket is in an address's path, or in the host's name. Counts with an `endpoint` only."""

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, endpoint: str | None) -> str | None:
        if endpoint is not None and not re.fullmatch(r"https?://[^/]+/?", endpoint):
            raise ValueError("an address without a path, such as 'https://minio.example.com:9000'")
        return endpoint

    @model_validator(mode="after")
    def _check_keys(self) -> "Storage":
        if (self.access_key is None) != (self.secret_key is None):
            given, missing = ("access_key", "secret_key") if self.access_key else ("secret_key", "access_key")
            raise ValueError(f"{given} needs {missing}")
        return self

    @property
    def iceberg(self) -> dict[str, str]:
        """PyIceberg's properties of the store, by which PyArrow opens it, too."""
        return _without_none(
            {
                "s3.endpoint": self.endpoint,
                "s3.region": self._region,
                "s3.access-key-id": self.access_key,
                "s3.secret-access-key": self.secret_key,
                "s3.session-token": self.session_token,
                "s3.force-virtual-addressing": "true" if self.endpoint and not self.path_style else None,
            }
        )

    @property
    def spark(self) -> dict[str, str]:
        """Spark's properties of the store, for Hadoop's S3A, which then also opens addresses that begin with `s3://`."""
        s3a = _without_none(
            {
                "endpoint": self.endpoint,
                "endpoint.region": self._region,
                "access.key": self.access_key,
                "secret.key": self.secret_key,
                "session.token": self.session_token,
                "path.style.access": "true" if self.endpoint and self.path_style else None,
            }
        )
        return {"spark.hadoop.fs.s3.impl": S3A} | {f"spark.hadoop.fs.s3a.{key}": value for key, value in s3a.items()}

    @property
    def _region(self) -> str | None:
        # Without one, PyIceberg would ask Amazon, whatever the endpoint.
        return self.region or ("us-east-1" if self.endpoint else None)


def _without_none(properties: Mapping[str, str | SecretStr | None]) -> dict[str, str]:
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in properties.items()
        if value is not None
    }


class Models(ConfigSection):
    """`[models]`: the MLflow registry."""

    path: str = "models"
    """A local folder: SQLite and bundles, or copies of the bundles that an MLflow server holds."""
    tracking_uri: SecretStr | None = None
    """The address of an MLflow server or of its database; without one, everything is under `path`."""
    name: Identifier = "funnel"
    """The name of the registered model."""

    @field_validator("path")
    @classmethod
    def _check_path(cls, path: str) -> str:
        if "://" in path:
            raise ValueError("a local folder; bundles go to an object store by an MLflow server, models.tracking_uri")
        return path

    @field_validator("tracking_uri")
    @classmethod
    def _check_tracking_uri(cls, uri: SecretStr | None) -> SecretStr | None:
        known = r"(https?|(postgresql|mysql|mssql|sqlite)(\+\w+)?)://"
        if uri is not None and not re.match(known, uri.get_secret_value()):
            raise ValueError("an MLflow server's or a database's address, such as 'http://mlflow:5000'")
        return uri


class Training(ConfigSection):
    """`[training]`: the examples a model learns from, and the network's shape."""

    history_days: PositiveInt = 180
    """Days of exposures that become examples."""
    holdout_days: PositiveInt = 14
    """Each stage's latest mature days, kept from training to evaluate and calibrate; at most a quarter of them."""
    min_positives: PositiveInt = 10
    """Mature positives that every stage needs; with fewer, training is refused."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seeds everything random in training; the same seed and examples give the same model."""
    epochs: PositiveInt = 12
    """The most passes over the examples."""
    patience: PositiveInt = 2
    """Epochs without a better held-out loss after which training stops."""
    batch_size: PositiveInt = 4096
    """The most rows of a training step; few examples are cut into smaller batches."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    """The optimizer's learning rate."""
    architecture: Architecture = "mmoe"
    """How the stages share what they learn; `model/README.md` compares the architectures."""
    numeric_embedding: Literal["none", "piecewise_linear", "periodic"] = "none"
    """Whether each number also gets a learned vector, and of which kind; needs `funnelcast[numeric]`."""
    experts: PositiveInt = 6
    """The number of experts, of architectures that have them."""
    expert_units: tuple[PositiveInt, ...] = (64,)
    """Widths of the hidden layers of each expert, or of the bottoms of architectures without experts."""
    gate_units: tuple[PositiveInt, ...] = ()
    """Widths of the hidden layers of each gate."""
    tower_units: tuple[PositiveInt, ...] = (32,)
    """Widths of the hidden layers of each stage's tower."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of units dropped in training."""
    context_dropout: Share = 0.3
    """The share of examples whose context is hidden in training, so that nights can score without a planned one."""
    device: str = "auto"
    """The device to train on: any that torch knows, such as `cuda:1`; `auto` takes CUDA where there is one."""


class Promotion(ConfigSection):
    """`[promotion]`: what a challenger must show to become champion, on later days held out from both. Without a
    champion, it must be better than a constant on every stage."""

    stage: Identifier | None = None
    """The stage that must get better; by default the last. No other stage may get worse."""
    min_positives: PositiveInt = 10
    """Held-out positives that each stage needs before models are compared."""
    max_calibration_gap: Annotated[float, Field(gt=0)] = 0.2
    """How far expected positives may lie from observed ones, as a share of these, beyond what chance explains."""


class Scoring(ConfigSection):
    """`[scoring]`: how a night scores its users."""

    context: dict[str, str] = Field(default={})
    """The context of the campaign being planned, by names from `features.context`; without it, nights score the average
    campaign."""
    score_batch_rows: PositiveInt = 16384
    """Rows that Spark hands to the model at a time."""


class Audit(ConfigSection):
    """`[audit]`: limits of the checks that run before each commit."""

    empty_day: Literal["critical", "warning"] = "critical"
    """What a day without events is if nights before it had some, unless its weekday always goes without: `critical`
    stops the night."""
    missed_nights: Literal["stop", "land", "warn"] = "stop"
    """What a night does if the source has days that never landed, between the first that did and its own: `stop` names
    the command that lands them; `land` lands them first; `warn` goes on without them and the withdrawals of consent
    that they hold."""
    row_count_ratio: Ratios = (0.3, 3.0)
    """Lowest and highest rows of a night, relative to the median of its last 7 nights; outside is a warning."""
    max_quarantine_share: Share = 0.1
    """The share of a day's events that may be rejected; with more, the night stops."""
    max_unreadable_share: Share = 0.9
    """The share of a mapped column's values above which the night stops if they cannot be read; any such value is a
    warning. Rejected rows do not count here."""
    min_shared_users: Share = 0.25
    """The share of the users with events who must have a profile; fewer is a warning, and none at all stops the night,
    since then one user is spelt in two ways. 0 leaves the check out."""
    stage_rate_ratio: Ratios = (0.2, 5.0)
    """Lowest and highest rate of a stage's events to exposures, relative to the last 7 nights; outside is a warning."""


class Maintenance(ConfigSection):
    """`[maintenance]`: what `funnel maintain` keeps; never less than a reader or a rollback needs."""

    keep_days: PositiveInt = 7
    """Snapshots that were current within this many days are kept, for readers and for `--at`."""
    keep_publishes: Annotated[int, Field(ge=2)] = 5
    """At least this many of a table's last publishes are kept, however old."""
    orphan_hours: Annotated[int, Field(ge=24)] = 72
    """The age in hours at which a file that no snapshot names is removed; longer than any run takes to publish."""
    compact_files: Annotated[int, Field(ge=2)] = 8
    """A partition of more small files than this is rewritten as one file."""


class Retention(ConfigSection):
    """`[retention]`: how many days of a table `funnel maintain` keeps; without a key, all.

    A partition goes once its date is more than so many days ago, from disk with the snapshots that `[maintenance]`
    keeps. `users`, `activity` and `known_users` have no key: who has withdrawn consent or completed rests on them.
    """

    events: PositiveInt | None = None
    """By landing day. At least `training.history_days`, the longest window and `source.events.lookback_days` together:
    less would change examples."""
    quarantine: PositiveInt | None = None
    """By landing day."""
    stopped_quarantine: PositiveInt | None = None
    """By landing day."""
    examples: PositiveInt | None = None
    """By the date that they were built for."""
    user_scores: PositiveInt | None = None
    """By night. At least `monitoring.backtest_nights` and the longest window together."""
    feature_samples: Annotated[int, Field(ge=1, le=90)] | None = None
    """By night; after 90 nights they go in any case."""
    targets: PositiveInt | None = None
    """By night; results of lists that are gone cannot be measured. At least the longest window and a day."""
    exports: PositiveInt | None = None
    """By the night of the list; the exported files themselves stay. At least as many as for `targets`."""
    runs: Annotated[int, Field(ge=30)] | None = None
    """By night."""
    metrics: Annotated[int, Field(ge=30)] | None = None
    """By night, or by the date that a model was trained as of."""
    audits: Annotated[int, Field(ge=30)] | None = None
    """By night."""

    @model_validator(mode="before")
    @classmethod
    def _check_kept(cls, keys: object) -> object:
        for name in ("users", "activity", "known_users"):
            if isinstance(keys, dict) and name in keys:
                raise ValueError(f"{name} is kept: who has withdrawn consent or completed rests on it")
        return keys


class Threshold(ConfigSection):
    """`monitoring.thresholds.FIGURE`: how far one figure may go; an empty table, `{}`, switches its default off."""

    warn: float | None = None
    """Past this value the night warns."""
    stop: float | None = None
    """Past this value the night fails: its scores are not announced, and no list is made of them."""


class Monitoring(ConfigSection):
    """`[monitoring]`: how much of a night is compared, and how far a figure may go."""

    sample_users: Annotated[int, Field(ge=1000)] = 20_000
    """Scored users whose features a night keeps, to compare them with those at training."""
    backtest_nights: PositiveInt = 28
    """The latest nights with known outcomes whose scores are compared with these."""
    thresholds: dict[str, Threshold] = Field(default={})
    """By a figure's name in `metrics`; a figure that is left out keeps its default."""


class Reports(ConfigSection):
    """`[reports]`: the nightly reports."""

    path: str = "reports"
    """The folder of the reports, one HTML file a night."""


class Operations(ConfigSection):
    """`[operations]`: what the DAGs wait for, and whom they alert."""

    source_wait_hours: PositiveInt = 6
    """Hours after the night's midnight in which the source's partition must arrive; later, the night fails."""
    scores_due_hours: PositiveInt = 8
    """Hours after the night's midnight at which scores are late and the webhook is called."""
    poke_seconds: Annotated[int, Field(ge=15)] = 60
    """Seconds between two looks at the source; on a busy host, Airflow loses a look that follows too soon."""
    retry_minutes: Annotated[float, Field(gt=0)] = 5
    """Minutes before the first retry of a task; each further pause is twice as long."""
    training_schedule: str = "0 6 * * 1"
    """Cron expression of the weekly training, in the funnel's time zone."""
    maintenance_schedule: str = "0 12 * * *"
    """Cron expression of the daily maintenance, in the funnel's time zone."""
    training_queue: str = "default"
    """The Airflow queue whose workers train: those with a GPU."""
    webhook_connection: str | None = None
    """The Airflow connection of the webhook that hears of failures and late scores; without one, only the log does."""


class Spark(ConfigSection):
    """`[spark]`: where Spark runs."""

    master: str = "local[*]"
    """Spark's master: `local[*]`, `spark://…`, `yarn` or `k8s://…`."""
    driver_memory: str = "1500m"
    """Memory of the driver, as Spark writes it."""
    conf: Properties = Field(default={})
    """Any Spark property."""
