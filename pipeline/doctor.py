"""`funnel doctor`: checks what a night depends on before one runs."""

import re
import shutil
import subprocess
import uuid
from collections.abc import Callable
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.audits.shared_users import SharedUsers
from pipeline.config.settings import Settings, load
from pipeline.engines.masters import is_one_process
from pipeline.errors import FunnelError, describe_error
from pipeline.ingest.arrivals import days_delivered, has_path
from pipeline.runs.context import Context
from pipeline.runs.erasures import is_pending, read_pending
from pipeline.stores import is_s3
from pipeline.text import show
from pipeline.warehouse.damage import describe
from pipeline.warehouse.retries import as_one_line_error
from pipeline.warehouse.tables import all_tables

if TYPE_CHECKING:
    import duckdb

MIN_JAVA = 17
DAMAGES_SHOWN = 3
WAYS = (
    "Put files back from a backup; run a night again that has lost a data file; `funnel warehouse recover` goes back "
    "to the last state whose manifests are whole"
)
NEEDED_TO_MAP = {"java", "source"}
"""The checks without which the source cannot be mapped."""


class Odd(str):
    """The line of a check that found nothing wrong, but something that may not be meant."""

    __slots__ = ()


def doctor(config: Path, *, deep: bool = False) -> None:
    """Check the configuration, Java, the warehouse, the source, its mapping and the champion; print one line each.

    Args:
        deep: also open every metadata file, manifest and data file of every table, with a line for each table.

    Raises:
        FunnelError: at least one check failed.
        ConfigError: the configuration cannot be loaded; nothing else is checked.
    """
    settings = load(config)
    print(f"ok      configuration  {config}: {', '.join(settings.funnel.stage_names)} in {settings.funnel.timezone}")
    checks: list[tuple[str, Callable[[Context], str]]] = [
        ("java", _check_java),
        ("warehouse", _check_warehouse),
        *([("store", _check_store)] if settings.warehouse.catalog else []),
        ("source", _check_source),
        ("mapping", _check_mapping),
        *([] if is_one_process(settings.spark.master) else [("executor", _check_executor)]),
        *([("user_ids", _check_user_ids)] if settings.source.users else []),
        ("champion", _check_champion),
        *([("erasures", _check_erasures)] if is_pending(settings) else []),
    ]
    if deep:
        checks += [(name, partial(_check_files, name=name)) for name in all_tables(settings)]
    context, failed = Context(settings), set[str]()
    for name, check in checks:
        if name == "mapping" and failed & NEEDED_TO_MAP:
            print(f"skipped {name:<13}  needs the checks before it")
            continue
        try:
            line = check(context)
            print(f"{'odd' if isinstance(line, Odd) else 'ok':<6}  {name:<13}  {show(line)}")
        except FunnelError as error:
            failed.add(name)
            print(f"failed  {name:<13}  {error}")
    if failed:
        raise FunnelError(f"{len(failed)} of {len(checks) + 1} checks failed")


def _check_java(context: Context) -> str:
    if shutil.which("java") is None:
        raise FunnelError(f"no `java` on the PATH; Spark needs Java {MIN_JAVA} or newer")
    output = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
    first = output.splitlines()[0] if output else "silent about its version"
    found = re.search(r'version "(\d+)', output)
    if not found or int(found[1]) < MIN_JAVA:
        raise FunnelError(f"java is {first}; Spark needs {MIN_JAVA} or newer")
    return first


def _check_warehouse(context: Context) -> str:
    context.warehouse.require_writable()
    settings, states = context.settings, context.warehouse.states()
    for state in states:
        if damage := context.warehouse.damage_of(state.name):
            raise FunnelError(describe(state.name, damage))
    newest = ", ".join(f"{state.name} to {state.newest}" for state in states if state.newest != "-")
    found = context.warehouse.find_root() if settings.warehouse.catalog else None
    # The folder of the namespace is ours, as the warehouse's is the configuration's.
    root = found[0].rpartition("/")[0] if found else settings.resolve(settings.warehouse.path)
    return f"{root}: {newest or 'empty'}"


def _check_store(context: Context) -> str:
    """Write and remove a file where the tables lie, and read the smallest of them as queries and reports do."""
    found = context.warehouse.find_root()
    if found is None:
        return "nothing to try yet: the catalog alone knows where tables will lie"
    root, io = found
    path = f"{root}/doctor-{uuid.uuid4().hex}"
    with as_one_line_error():
        with io.new_output(path).create() as stream:
            stream.write(b"written by funnel doctor, which removes it")
        io.delete(path)
    tables = sorted(context.warehouse.states(), key=lambda state: (state.files, state.name))
    if not tables:
        return f"{root} can be written"
    # Imported late, since most commands run without DuckDB.
    import duckdb

    from pipeline.analyst.connection import connect_pinned

    name = tables[0].name
    try:
        with connect_pinned(context.settings, name, None)[0] as connection:
            connection.execute(f'SELECT count(*), max(t::VARCHAR) FROM "{name}" t').fetchall()
    except duckdb.Error as error:
        raise FunnelError(f"DuckDB cannot read table {name!r} at {root}: {describe_error(error)}") from None
    return f"{root} can be written, and DuckDB reads {name} there"


def _check_files(context: Context, *, name: str) -> str:
    """Check all files of a table's snapshots, and name the first ones that are not as the table says."""
    snapshots, damages = context.warehouse.damages_of(name)
    if damages:
        shown = "; ".join(map(str, damages[:DAMAGES_SHOWN]))
        more = f"; and {len(damages) - DAMAGES_SHOWN} more" if len(damages) > DAMAGES_SHOWN else ""
        raise FunnelError(f"{shown}{more}. {WAYS}")
    return f"every file of its snapshots is whole, {snapshots} of them" if snapshots else "no snapshots"


def _check_source(context: Context) -> str:
    """Look for local files, and ask a database; a remote path is left to the night itself."""
    asked = _ask_databases(context)
    files = "" if context.settings.source.events.format == "jdbc" else _find_files(context.settings)
    return "; ".join([*([files] if files else []), *asked])


def _ask_databases(context: Context) -> list[str]:
    readers = {"events": context.settings.source.events, "users": context.settings.source.users}
    names = [name for name, reader in readers.items() if reader is not None and reader.format == "jdbc"]
    if not names:
        return []
    # Imported late, since it brings Spark.
    from pipeline.ingest.sample import ask_database

    return [ask_database(context, name) for name in names]


def _find_files(settings: Settings) -> str:
    """Look for local files and for those on S3; another path, a query or a table is left to the night itself."""
    path = settings.source.events.path
    if path is None or ("://" in path and not is_s3(path)):
        return f"{path or settings.source.events.format}: not checked, neither a local path nor on S3"
    resolved = settings.resolve(path)
    if not settings.source.events.is_partitioned:
        is_there = has_path(settings, resolved, "source.events.path") if is_s3(path) else Path(resolved).exists()
        if not is_there:
            raise FunnelError(f"source.events.path: nothing at {resolved}")
        return resolved
    today = datetime.now(settings.zone).date()
    days = [day for day in days_delivered(settings) if day < today]
    if not days:
        raise FunnelError(f"source.events.path: no past day has files at {resolved}")
    return f"{resolved}: {len(days)} days, {days[0]} to {days[-1]}"


def _check_mapping(context: Context) -> str:
    """Map a sample of the source, and name what the configuration expects in it and is not there."""
    # Imported late, since it brings Spark.
    from pipeline.ingest.sample import check_sample

    seen, odd = check_sample(context)
    return Odd("; ".join(odd)) if odd else f"fits {seen}"


def _check_executor(context: Context) -> str:
    # Imported late, since it brings Spark.
    from pipeline.scoring.workers import check_executor

    return check_executor(context)


def _check_user_ids(context: Context) -> str:
    """Look whether the events that landed last and the profiles know each other's users."""
    # Imported late, since most commands run without DuckDB.
    import duckdb

    from pipeline.analyst.connection import connect_pinned

    try:
        found = _count_shared_users(connect_pinned(context.settings, "events, users", None)[0])
    except duckdb.Error as error:
        raise FunnelError(
            f"events and users cannot be read: {describe_error(error)}; see funnel doctor --deep"
        ) from None
    if not found.with_events or not found.with_profiles:
        return "nothing to compare: events and profiles have not landed yet"
    min_share = context.settings.audit.min_shared_users
    if min_share and found.is_impossible:
        raise FunnelError(str(found))
    if found.is_low(min_share):
        return Odd(f"few: {found}")
    return f"{found.shared:,} of {found.with_events:,} users with events in the last 7 landing days have a profile"


def _count_shared_users(connection: "duckdb.DuckDBPyConnection") -> SharedUsers:
    with connection:
        ((with_events, *rest),) = connection.execute(
            "WITH profiles AS (SELECT DISTINCT user_id FROM users), "
            "with_events AS (SELECT DISTINCT user_id FROM events "
            "WHERE landed_on > (SELECT max(landed_on) FROM events) - INTERVAL 7 DAY) "
            "SELECT (SELECT count(*) FROM with_events), "
            "(SELECT count(*) FROM with_events WHERE user_id IN (FROM profiles)), (SELECT count(*) FROM profiles), "
            "(SELECT min(user_id) FROM with_events), (SELECT min(user_id) FROM profiles)"
        ).fetchall()
    return SharedUsers(with_events, *rest)


def _check_champion(context: Context) -> str:
    registry = context.registry
    version = registry.champion(date.max)
    if version is None:
        return "none yet: train the first with funnel train --as-of"
    registry.bundle_path(version)
    return f"{version}, trained as of {registry.run(version).as_of}"


def _check_erasures(context: Context) -> str:
    if pending := read_pending(context.settings):
        raise FunnelError(f"{pending} is not finished: run `funnel erase`")
    return "all are finished"
