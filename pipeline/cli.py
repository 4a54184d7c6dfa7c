"""The `funnel` commands: what Airflow runs at night, run by hand. Each command imports only what it needs."""

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
warehouse_app = typer.Typer(
    no_args_is_help=True, help="Move, back up, restore or recover the company's tables and models."
)
app.add_typer(warehouse_app, name="warehouse")

Config = Annotated[Path, typer.Option("--config", "-c", envvar="FUNNEL_CONFIG", help="The funnel's TOML file.")]
Ds = Annotated[str, typer.Option("--ds", help="The night's date, YYYY-MM-DD, in the funnel's time zone.")]
Start = Annotated[str, typer.Option("--start", help="First night, YYYY-MM-DD.")]
End = Annotated[str, typer.Option("--end", help="Last night, YYYY-MM-DD, included.")]
Model = Annotated[str | None, typer.Option("--model", help="Score with this version, not the champion as of the date.")]
CampaignName = Annotated[str, typer.Option("--campaign", help="Name of a campaign in the configuration.")]
DEFAULT_CONFIG = Path("funnel.toml")


@app.command()
def nightly(ds: Ds, config: Config = DEFAULT_CONFIG, model: Model = None) -> None:
    """Run one night: ingest, activity, score, monitor, report."""
    from pipeline.nights import nightly

    settings = _load(config)
    nightly(Context(settings), _parse_night(ds, "--ds", settings), model=model)


@app.command()
def ingest(ds: Ds, config: Config = DEFAULT_CONFIG) -> None:
    """Land one day of the source: events, users, quarantine."""
    from pipeline.ingest.ingest import ingest

    settings = _load(config)
    night = _parse_night(ds, "--ds", settings)
    ingest(Context(settings), DateRange(night, night))


@app.command()
def activity(ds: Ds, config: Config = DEFAULT_CONFIG) -> None:
    """Rebuild one day's activity tiles from its events."""
    from pipeline.ingest.activity import build_activity

    settings = _load(config)
    night = _parse_night(ds, "--ds", settings)
    build_activity(Context(settings), DateRange(night, night))


@app.command()
def score(ds: Ds, config: Config = DEFAULT_CONFIG, model: Model = None) -> None:
    """Score every eligible user for one night and publish the partition."""
    from pipeline.scoring.scoring import score

    settings = _load(config)
    score(Context(settings), _parse_night(ds, "--ds", settings), model=model)


@app.command()
def monitor(ds: Ds, config: Config = DEFAULT_CONFIG) -> None:
    """Compute one night's monitoring figures: volumes, freshness, drift, matured outcomes."""
    from pipeline.monitoring.monitor import monitor

    settings = _load(config)
    monitor(Context(settings), _parse_night(ds, "--ds", settings))


@app.command()
def report(ds: Ds, config: Config = DEFAULT_CONFIG) -> None:
    """Write one night's report as a single HTML file."""
    from pipeline.report.report import report

    settings = _load(config)
    report(Context(settings), _parse_night(ds, "--ds", settings))


@app.command()
def targets(
    ds: Ds,
    campaign: CampaignName,
    config: Config = DEFAULT_CONFIG,
    size: Annotated[int | None, typer.Option(help="Number of messages, instead of the campaign's limit.")] = None,
    budget: Annotated[float | None, typer.Option(help="Total cost, instead of the campaign's limit.")] = None,
    despite_monitor: Annotated[
        bool,
        typer.Option("--despite-monitor", help="Make the list even if monitoring has not passed the night."),
    ] = False,
    export: Annotated[
        Literal["csv", "parquet"] | None, typer.Option(help="Also export the list, as this format.")
    ] = None,
) -> None:
    """Make a campaign's list for the day after: every known user with an arm and a reason."""
    from pipeline.campaigns.exports import export as export_list
    from pipeline.campaigns.targets import make_list
    from pipeline.campaigns.targets_table import print_list

    settings = _load(config)
    context, day = Context(settings), _parse_night(ds, "--ds", settings)
    targets = make_list(context, day, campaign, size=size, budget=budget, despite_monitor=despite_monitor)
    print_list(targets)
    if export:
        export_list(context, day, campaign, version=targets.version, format=export)


@app.command()
def export(
    ds: Ds,
    campaign: CampaignName,
    config: Config = DEFAULT_CONFIG,
    version: Annotated[int | None, typer.Option(help="Version of the list; the newest by default.")] = None,
    format: Annotated[
        Literal["csv", "parquet"] | None, typer.Option(help="File format; by default the suffix of --out, else CSV.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="File or URI; by default a file under targeting.path.")] = None,
) -> None:
    """Write the user ids of a list's targets to a file, best first."""
    from pipeline.campaigns.exports import export

    settings = _load(config)
    export(Context(settings), _parse_night(ds, "--ds", settings), campaign, version=version, format=format, out=out)


@app.command()
def backfill(start: Start, end: End, config: Config = DEFAULT_CONFIG, model: Model = None) -> None:
    """Load a range of nights as one job, then score, monitor and report each that has a champion."""
    from pipeline.nights import backfill

    settings = _load(config)
    first, last = _parse_night(start, "--start", settings), _parse_night(end, "--end", settings)
    backfill(Context(settings, is_bulk=True), DateRange(first, last), model=model)


@app.command()
def train(
    as_of: Annotated[str, typer.Option("--as-of", help="Train on what was known by the end of this date, YYYY-MM-DD.")],
    config: Config = DEFAULT_CONFIG,
    architecture: Annotated[str | None, typer.Option(help="Override training.architecture.")] = None,
    history_days: Annotated[int | None, typer.Option(help="Override training.history_days.")] = None,
    seed: Annotated[int | None, typer.Option(help="Override training.seed.")] = None,
) -> None:
    """Train a challenger, compare it with the champion on later days, register it, promote it if the verdict allows."""
    from pipeline.terminal import show_training_progress
    from pipeline.training.fitting import with_training
    from pipeline.training.steps import train

    settings = with_training(_load(config), architecture=architecture, history_days=history_days, seed=seed)
    day = _parse_night(as_of, "--as-of", settings)
    with show_training_progress() as on_progress:
        train(Context(settings, is_bulk=True), day, on_progress=on_progress)


@models_app.callback()
def models(context: typer.Context, config: Config = DEFAULT_CONFIG) -> None:
    """List registered models, newest first: status, architecture, AUC by stage, verdict."""
    context.obj = config
    if context.invoked_subcommand is None:
        from pipeline.models.listing import print_models

        print_models(_load(config))


@models_app.command("rollback")
def rollback_champion(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="The funnel's TOML file.")] = None,
) -> None:
    """Withdraw the champion from every date and restore the one promoted before it."""
    withdrawn, champion = Context(_load(config or context.obj)).registry.rollback()
    print(f"model {withdrawn} is withdrawn from every date; {champion} is champion again")


@app.command()
def promote(
    version: Annotated[str, typer.Argument(help="Model version, as `funnel models` lists it.")],
    reason: Annotated[str, typer.Option(help="Why; stored with the version.")] = "",
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Promote a model regardless of its verdict, and print the verdict."""
    from pipeline.training.manually import promote_manually

    # The stage's own line would repeat what is printed.
    print(promote_manually(Context(_load(config), notify=lambda _: None), version, reason=reason))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the company; an earlier demo there is replaced.")] = Path(
        "demo"
    ),
    users: Annotated[int, typer.Option(min=100, help="Number of simulated users.")] = 20_000,
    days: Annotated[int, typer.Option(min=60, help="Days of history, including the scored nights.")] = 120,
    nights: Annotated[int, typer.Option(min=1, help="Nights to score one by one at the end.")] = 5,
) -> None:
    """Simulate a lender, load its history, train, score its last nights, and compare scores with the truth."""
    from pipeline.demo import demo

    demo(out, users=users, days=days, nights=nights)


@app.command()
def simulate(
    out: Annotated[Path, typer.Option(help="New or empty folder to write to.")],
    users: Annotated[int, typer.Option(min=1, help="Number of users.")] = 20_000,
    days: Annotated[int, typer.Option(min=1, help="Number of days.")] = 120,
    start: Annotated[str, typer.Option(help="First day, YYYY-MM-DD.")] = "2026-01-01",
    seed: Annotated[int, typer.Option(help="Seed of the simulation.")] = 7,
) -> None:
    """Write the users, exposures and events of a simulated lender, with their true probabilities."""
    from pipeline.demo import simulate_company

    simulate_company(out, users=users, days=days, start=parse_date(start, name="--start"), seed=seed)


@app.command()
def results(
    campaign: Annotated[str, typer.Option("--campaign", help="Name of a campaign that has lists.")],
    ds: Annotated[
        str | None, typer.Option("--ds", help="Night of the list, YYYY-MM-DD; the newest mature one by default.")
    ] = None,
    version: Annotated[
        int | None, typer.Option(help="Version of the list; by default the newest exported one, else the newest.")
    ] = None,
    format: Annotated[Literal["table", "csv"], typer.Option(help="Output format.")] = "table",
    plot: Annotated[Path | None, typer.Option(help="SVG file to draw the Qini curve into.")] = None,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Measure whether a campaign worked: response by arm and band, uplift, cost per caused outcome, Qini curve."""
    from pipeline.campaigns.results_table import print_results

    settings = _load(config)
    night = None if ds is None else _parse_night(ds, "--ds", settings)
    print_results(settings, campaign, ds=night, version=version, format=format, plot=plot)


@app.command()
def sql(
    query: Annotated[str | None, typer.Argument(help="One SELECT over tables and views; omit it for a prompt.")] = None,
    config: Config = DEFAULT_CONFIG,
    at: Annotated[
        str | None, typer.Option(help="Read the state at a time such as '2026-01-31 06:00', or at the end of a date.")
    ] = None,
    format: Annotated[Literal["table", "csv", "parquet"], typer.Option(help="Output format.")] = "table",
    out: Annotated[Path | None, typer.Option(help="File to write instead of the terminal.")] = None,
) -> None:
    """Query tables and views with DuckDB, read-only and without a JVM. Also reads piped statements."""
    from pipeline.dates import parse_time

    settings = _load(config)
    time = parse_time(at, settings.zone, name="--at") if at else None
    if query is None:
        from pipeline.analyst.shell import run_shell

        run_shell(settings, format=format, out=out, at=time)
    else:
        from pipeline.analyst.query import run_query

        run_query(settings, query, format=format, out=out, at=time)


@app.command()
def tables(
    config: Config = DEFAULT_CONFIG,
    views: Annotated[bool, typer.Option("--views", help="List the views instead, and what their rows are.")] = False,
) -> None:
    """List the warehouse's tables: rows, files, partitions, newest date, snapshot."""
    from pipeline.analyst.listing import print_tables, print_views

    (print_views if views else print_tables)(_load(config))


@app.command()
def rollback(table: Annotated[str, typer.Argument(help="Name of the table.")], config: Config = DEFAULT_CONFIG) -> None:
    """Restore a table to its state before the last publish."""
    snapshot = Context(_load(config)).warehouse.rollback(table)
    print(f"{table} is at snapshot {snapshot} again")


@app.command()
def maintain(
    config: Config = DEFAULT_CONFIG,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report what would be done.")] = False,
) -> None:
    """Compact small files, expire old snapshots and remove orphaned files."""
    from pipeline.maintenance import maintain

    maintain(Context(_load(config)), dry_run=dry_run)


@app.command()
def erase(
    user: Annotated[list[str] | None, typer.Option("--user", help="A user's id; may be given several times.")] = None,
    file: Annotated[Path | None, typer.Option("--file", help="A text file of ids, one a line.")] = None,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Remove users from every table, snapshot and report, and prove it; without ids, finish what was broken off."""
    from pipeline.erasure.erase import erase
    from pipeline.erasure.ids import read_ids

    context = Context(_load(config))
    erase(context, read_ids(user or [], file, notify=context.notify))


@warehouse_app.command("relocate")
def relocate_warehouse(
    config: Config = DEFAULT_CONFIG,
    to: Annotated[
        Path | None,
        typer.Option(help="New or empty folder to move the company to; by default, it has been moved already."),
    ] = None,
) -> None:
    """Make tables and models those of the folder they are in now, after it was moved or copied; or move them."""
    from pipeline.relocation.company import move, relocate

    settings = _load(config)
    if to is None:
        relocate(settings)
    else:
        move(settings, config, to)


@warehouse_app.command("backup")
def back_up_warehouse(
    to: Annotated[Path, typer.Argument(help="New or empty folder.")], config: Config = DEFAULT_CONFIG
) -> None:
    """Copy tables, models, reports and lists as they are now into a folder, each file verified."""
    from pipeline.relocation.company import back_up

    back_up(_load(config), config, to)


@warehouse_app.command("restore")
def restore_warehouse(
    backup: Annotated[Path, typer.Argument(help="Folder that `funnel warehouse backup` has made.")],
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Bring a backup to where the configuration keeps its tables, models, reports and lists."""
    from pipeline.relocation.company import restore

    restore(_load(config), backup)


@warehouse_app.command("recover")
def recover_warehouse(
    config: Config = DEFAULT_CONFIG,
    metadata: Annotated[
        Path | None, typer.Option(help="Register this metadata file for its table, whatever the catalog has.")
    ] = None,
) -> None:
    """Put tables back into a lost or damaged catalog from their newest good metadata."""
    from pipeline.relocation.recovery import recover

    recover(_load(config), metadata)


@app.command()
def doctor(
    config: Config = DEFAULT_CONFIG,
    deep: Annotated[bool, typer.Option("--deep", help="Also read every file of the warehouse's tables.")] = False,
) -> None:
    """Check the configuration, Java, the warehouse, a sample of the source and the champion."""
    from pipeline.doctor import doctor

    doctor(config, deep=deep)


def _load(config: Path) -> "Settings":
    from pipeline.config.settings import load

    return load(config)


def _parse_night(text: str, name: str, settings: "Settings") -> date:
    return parse_night(text, settings.zone, name=name)
