"""Serves the nightly reports from Airflow's own server, behind its login: a page in the menu and a tab on each run."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from typing import Any

from airflow.api_fastapi.core_api.security import requires_access_dag
from airflow.plugins_manager import AirflowPlugin
from airflow.utils.session import create_session
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import HTMLResponse, RedirectResponse

DAG_ID = "funnel_nightly"
PREFIX = "/funnelcast"
# A report has no scripts and loads nothing; the policy enforces that, whatever a source's rows contain.
HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:"}
LIST = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Reports</title><style>body{{font:16px/1.6 system-ui,sans-serif;max-width:40rem;margin:2rem auto;padding:0 1rem}}
@media (prefers-color-scheme:dark){{body{{background:#111;color:#ddd}}a{{color:#8bf}}}}</style>
<h1>Nightly reports</h1>{body}</html>"""

app = FastAPI(title="Funnelcast", docs_url=None, redoc_url=None, openapi_url=None)
allowed = [Depends(requires_access_dag(method="GET", param_dag_id=DAG_ID))]


@contextmanager
def _as_page() -> Iterator[None]:
    """Answer with the one line of a FunnelError."""
    from pipeline.errors import FunnelError

    try:
        yield
    except FunnelError as error:
        raise HTTPException(503, str(error)) from None


@app.get("/reports", dependencies=allowed, response_class=HTMLResponse)
def reports() -> HTMLResponse:
    """List the nights that have a report, newest first."""
    # The configuration is read at each request: the server lives longer than the file.
    from funnel_tasks import load_settings

    from pipeline.report.kept import list_reports

    with _as_page():
        nights = list_reports(load_settings())
    links = "".join(f'<li><a href="{PREFIX}/reports/{night}">{night}</a></li>' for night in nights)
    body = f"<ul>{links}</ul>" if nights else "<p>No reports yet: each run of funnel_nightly writes one.</p>"
    return HTMLResponse(LIST.format(body=body), headers=HEADERS)


@app.get("/reports/{night}", dependencies=allowed, response_class=HTMLResponse)
def report(night: date) -> HTMLResponse:
    """Show one night's report."""
    from funnel_tasks import load_settings

    from pipeline.report.kept import read_report

    with _as_page():
        page = read_report(load_settings(), night)
    if page is None:
        raise HTTPException(404, f"no report of {night}: the task `report` of its run writes one")
    return HTMLResponse(page, headers=HEADERS)


@app.get("/runs/{dag_id}/{run_id:path}", dependencies=allowed)
def report_of_run(dag_id: str, run_id: str) -> RedirectResponse:
    """Redirect to the report of a run's night."""
    from airflow.models import DagRun
    from funnel_tasks import load_settings, night_of
    from sqlalchemy import select

    if dag_id != DAG_ID:
        raise HTTPException(404, f"{dag_id} writes no reports; {DAG_ID} does")
    with create_session() as session:
        run = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
        start = run.data_interval_start if run else None
    if start is None:
        raise HTTPException(404, f"{dag_id} has no run {run_id} with a date")
    return RedirectResponse(f"{PREFIX}/reports/{night_of(start, load_settings().zone)}")


APPS: list[Any] = [{"app": app, "url_prefix": PREFIX, "name": "Funnelcast reports"}]
VIEWS: list[Any] = [
    {
        "name": "Reports",
        "href": f"{PREFIX}/reports",
        "url_route": "funnel-reports",
        "destination": "nav",
        "category": "browse",
    },
    {
        "name": "Report",
        "href": PREFIX + "/runs/{DAG_ID}/{RUN_ID}",
        "url_route": "funnel-report",
        "destination": "dag_run",
    },
]


class FunnelReports(AirflowPlugin):
    """The plugin that Airflow loads."""

    name = "funnelcast"
    fastapi_apps = APPS
    external_views = VIEWS
