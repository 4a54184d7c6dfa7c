"""`funnel`: what Airflow runs at night is what a person runs by hand. Heavy imports wait until a command needs them."""

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.dates import DateRange, parse_date, parse_night
from pipeline.runs.context import Context

if TYPE_CHECKING:
    from pipeline.config.settings import Settings

app = typer.Typer(
    help="Nightly multi-task propensity scores for SMS campaigns.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(invoke_without_command=True)
app.add_typer(models_app, name="models")

Config = Annotated[Path, typer.Option("--config", "-c", envvar="FUNNEL_CONFIG", help="The funnel's TOML file.")]
Ds = Annotated[str, typer.Option("--ds", help="The night's date, YYYY-MM-DD, in the funnel's time zone.")]
Start = Annotated[str, typer.Option("--start", help="First date, YYYY-MM-DD.")]
End = Annotated[str, typer.Option("--end", help="Last date, included.")]
Model = Annotated[str | None, typer.Option("--model", help="A model version instead of the champion as of the date.")]
CampaignName = Annotated[str, typer.Option("--campaign", help="A campaign of the configuration.")]
DEFAULT_CONFIG = Path("funnel.toml")


@app.command()
def nightly(ds: Ds, config: Config = DEFAULT_CONFIG, model: Model = None) -> None:
    """Every stage of one night: ingest, activity, score, monitor, report."""
    from pipeline.nights import nightly

    settings = _load(config)
    nightly(Context(settings), _night(ds, "--ds", settings).first, model=model)


@app.command()
def ingest(ds: Ds, config: Config = DEFAULT_CONFIG) -> None:
    """Land one date of the source: events, users, quarantine."""
    from pipeline.ingest.ingest import ingest

    settings = _load(config)
    ingest(Context(settings), _night(ds, "--ds", settings))


@app.command()
def activity(ds: Ds, config: Config = DEFAULT_CONFIG) -> None:
    """Rebuild one date's activity tiles from its events."""
    from pipeline.ingest.activity import activity

    settings = _load(config)
    activity(Context(settings), _night(ds, "--ds", settings))


@app.command()
def score(ds: Ds, config: Config = DEFAULT_CONFIG, model: Model = None) -> None:
    """Score every eligible user as of one date and publish the partition."""
    from pipeline.scoring.scoring import score

    settings = _load(config)
    score(Context(settings), _night(ds, "--ds", settings).first, model=model)


@app.command()
def monitor(ds: Ds, config: Config = DEFAULT_CONFIG) -> None:
    """Measure one night into `metrics`: volumes, freshness, and how far its scores moved since the night before."""
    from pipeline.monitoring.monitor import monitor

    settings = _load(config)
    monitor(Context(settings), _night(ds, "--ds", settings).first)


@app.command()
def report(ds: Ds, config: Config = DEFAULT_CONFIG) -> None:
    """Write one night's report: a single HTML file, to open in any browser."""
    from pipeline.report.report import report

    settings = _load(config)
    report(Context(settings), _night(ds, "--ds", settings).first)


@app.command()
def targets(
    ds: Ds,
    campaign: CampaignName,
    config: Config = DEFAULT_CONFIG,
    size: Annotated[int | None, typer.Option(help="How many users to text, instead of the campaign's limit.")] = None,
    budget: Annotated[float | None, typer.Option(help="What texting may cost, instead of that limit.")] = None,
    despite_monitor: Annotated[
        bool, typer.Option("--despite-monitor", help="Although monitoring stopped the night.")
    ] = False,
    export: Annotated[Literal["csv", "parquet"] | None, typer.Option(help="Export the list at once.")] = None,
) -> None:
    """Decide whom a campaign texts on the day after: everyone known, with arm and reason, as a version of its list."""
    from pipeline.campaigns.exports import export as export_list
    from pipeline.campaigns.targets import make, show_list

    settings = _load(config)
    context, day = Context(settings), _night(ds, "--ds", settings).first
    made = make(context, day, campaign, size=size, budget=budget, despite_monitor=despite_monitor)
    show_list(made)
    if export:
        export_list(context, day, campaign, version=made.version, format=export)


@app.command()
def export(
    ds: Ds,
    campaign: CampaignName,
    config: Config = DEFAULT_CONFIG,
    version: Annotated[int | None, typer.Option(help="Instead of the list's newest version.")] = None,
    format: Annotated[
        Literal["csv", "parquet"] | None, typer.Option(help="Instead of what --out ends in, or CSV.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="File or URI, instead of one in the [targeting] path.")] = None,
) -> None:
    """Write the ids of a list's targets, the best first, to a file for whoever sends the messages."""
    from pipeline.campaigns.exports import export

    settings = _load(config)
    export(Context(settings), _night(ds, "--ds", settings).first, campaign, version=version, format=format, out=out)


@app.command()
def backfill(start: Start, end: End, config: Config = DEFAULT_CONFIG, model: Model = None) -> None:
    """Load a range of dates as one job, then score those that a model was trained for."""
    from pipeline.nights import backfill

    settings = _load(config)
    first, last = _night(start, "--start", settings).first, _night(end, "--end", settings).last
    backfill(Context(settings, is_bulk=True), DateRange(first, last), model=model)


@app.command()
def train(
    as_of: Annotated[str, typer.Option("--as-of", help="Train on what was known by the end of this date.")],
    config: Config = DEFAULT_CONFIG,
    architecture: Annotated[str | None, typer.Option(help="Instead of training.architecture.")] = None,
    history_days: Annotated[int | None, typer.Option(help="Instead of training.history_days.")] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of training.seed.")] = None,
) -> None:
    """Build examples, fit, judge on later days beside the champion, register, and promote if the verdict says so."""
    from pipeline.terminal import show_training_progress
    from pipeline.training.steps import train, with_training

    settings = with_training(_load(config), architecture=architecture, history_days=history_days, seed=seed)
    day = _night(as_of, "--as-of", settings).first
    with show_training_progress() as on_progress:
        train(Context(settings, is_bulk=True), day, on_progress=on_progress)


@models_app.callback()
def models(context: typer.Context, config: Config = DEFAULT_CONFIG) -> None:
    """List the registered models, newest first: status, architecture, AUC of each stage, verdict."""
    context.obj = config
    if context.invoked_subcommand is None:
        from pipeline.models.listing import print_models

        print_models(_load(config))


@models_app.command("rollback")
def rollback_champion(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="The funnel's TOML file.")] = None,
) -> None:
    """Withdraw the champion from every date; the promoted model before it takes its place."""
    from pipeline.models.registry import Registry

    withdrawn, champion = Registry(_load(config or context.obj)).rollback()
    print(f"model {withdrawn} is withdrawn from every date; {champion} is champion again")


@app.command()
def promote(
    version: Annotated[str, typer.Argument(help="A model's version, as `funnel models` shows it.")],
    reason: Annotated[str, typer.Option(help="Why, kept with the version.")] = "",
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Promote a model whatever its verdict, which is told."""
    from pipeline.models.listing import promote_by_hand

    print(promote_by_hand(_load(config), version, reason=reason))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the simulated company; replaced if a demo made it.")] = Path(
        "demo"
    ),
    users: Annotated[int, typer.Option(min=100, help="Users of the simulated lender.")] = 20_000,
    days: Annotated[int, typer.Option(min=60, help="Days of history, the scored nights included.")] = 120,
    nights: Annotated[int, typer.Option(min=1, help="Nights scored one by one at the end.")] = 5,
) -> None:
    """Simulate a lender, load its history, train, run the last nights, and show the scores beside the truth."""
    from pipeline.demo import demo

    demo(out, users=users, days=days, nights=nights)


@app.command()
def simulate(
    out: Annotated[Path, typer.Option(help="A new or empty folder.")],
    users: Annotated[int, typer.Option(min=1)] = 20_000,
    days: Annotated[int, typer.Option(min=1)] = 120,
    start: Annotated[str, typer.Option(help="First day, YYYY-MM-DD.")] = "2026-01-01",
    seed: Annotated[int, typer.Option()] = 7,
) -> None:
    """Write users, exposures and funnel events of an invented lender, with known true probabilities."""
    from pipeline.demo import simulate_company

    simulate_company(out, users=users, days=days, start=parse_date(start, name="--start"), seed=seed)


@app.command()
def results(
    campaign: Annotated[str, typer.Option("--campaign", help="A campaign that lists were made for.")],
    ds: Annotated[
        str | None, typer.Option("--ds", help="The list's night, YYYY-MM-DD; the newest mature one unless named.")
    ] = None,
    version: Annotated[
        int | None, typer.Option(help="The list's version; the newest exported one, else the newest.")
    ] = None,
    format: Annotated[Literal["table", "csv"], typer.Option(help="How to print the results.")] = "table",
    plot: Annotated[Path | None, typer.Option(help="Draw the Qini curve into this SVG file.")] = None,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Did a campaign work: response by arm and band, uplift, cost of what it caused, and the Qini curve."""
    from pipeline.campaigns.results_table import print_results

    settings = _load(config)
    night = None if ds is None else _night(ds, "--ds", settings).first
    print_results(settings, campaign, ds=night, version=version, format=format, plot=plot)


@app.command()
def sql(
    query: Annotated[str | None, typer.Argument(help="One SELECT over tables and views; a prompt without one.")] = None,
    config: Config = DEFAULT_CONFIG,
    at: Annotated[
        str | None, typer.Option(help="As it stood then: a date, its end, or a time such as '2026-01-31 06:00'.")
    ] = None,
    format: Annotated[Literal["table", "csv", "parquet"], typer.Option(help="How to print the result.")] = "table",
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of the terminal.")] = None,
) -> None:
    """Query the tables and views with DuckDB: read-only, no Spark, no JVM. Statements may also be piped in."""
    from pipeline.dates import parse_time

    settings = _load(config)
    time = parse_time(at, settings.zone, name="--at") if at else None
    if query is None:
        from pipeline.analyst.shell import run as run_shell

        run_shell(settings, format=format, out=out, at=time)
    else:
        from pipeline.analyst.query import query as run_query

        run_query(settings, query, format=format, out=out, at=time)


@app.command()
def tables(
    config: Config = DEFAULT_CONFIG,
    views: Annotated[bool, typer.Option("--views", help="The views instead, and what one row of each is.")] = False,
) -> None:
    """The warehouse's tables: rows, files, partitions, newest date, snapshot."""
    from pipeline.analyst.query import print_tables, print_views

    (print_views if views else print_tables)(_load(config))


@app.command()
def rollback(table: Annotated[str, typer.Argument(help="A table's name.")], config: Config = DEFAULT_CONFIG) -> None:
    """Make a table's state before its last publish current again."""
    snapshot = Context(_load(config)).warehouse.rollback(table)
    print(f"{table} is at snapshot {snapshot} again")


@app.command()
def maintain(
    config: Config = DEFAULT_CONFIG,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")] = False,
) -> None:
    """Compact small files, expire old snapshots, remove orphans: never what a reader or a rollback still needs."""
    from pipeline.maintenance import maintain

    maintain(Context(_load(config)), dry_run=dry_run)


@app.command()
def doctor(config: Config = DEFAULT_CONFIG) -> None:
    """Check the configuration, Java, the warehouse and the source before a night depends on them."""
    from pipeline.doctor import doctor

    doctor(config)


def _load(config: Path) -> "Settings":
    from pipeline.config.settings import load

    return load(config)


def _night(text: str, name: str, settings: "Settings") -> DateRange:
    day: date = parse_night(text, settings.zone, name=name)
    return DateRange(day, day)
