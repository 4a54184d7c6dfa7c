"""The reports that there are, wherever `[reports] path` puts them."""

import re
from datetime import date

from pyarrow.fs import FileSelector

from pipeline.config.settings import Settings
from pipeline.errors import FunnelError, describe_error
from pipeline.files import read_whole
from pipeline.stores import explain_store_error, open_location

SEE = "[reports] path"
_NAME = re.compile(r"(\d{4}-\d{2}-\d{2})\.html")


def report_path(settings: Settings, ds: date) -> str:
    """The path or the URI of a night's report."""
    return f"{_folder(settings)}/{ds}.html"


def list_reports(settings: Settings) -> list[str]:
    """The nights that have a report, the newest first.

    Raises:
        FunnelError: the folder cannot be looked at.
    """
    try:
        system, folder = open_location(_folder(settings), settings.storage.iceberg)
        found = system.get_file_info(FileSelector(folder, allow_not_found=True))
    except (OSError, ValueError) as error:
        why = explain_store_error(error) or describe_error(error)
        raise FunnelError(f"the reports cannot be listed: {why}; see {SEE}") from None
    return sorted((named[1] for each in found if (named := _NAME.fullmatch(each.base_name))), reverse=True)


def read_report(settings: Settings, ds: date) -> str | None:
    """A night's report; None if there is none.

    Raises:
        FunnelError: it cannot be read.
    """
    content = read_whole(report_path(settings, ds), see=SEE, storage=settings.storage.iceberg)
    return None if content is None else content.decode()


def _folder(settings: Settings) -> str:
    return settings.resolve(settings.reports.path).rstrip("/")
