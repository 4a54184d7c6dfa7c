"""Commits that are made once, whatever becomes of the catalog's answers."""

import uuid
from collections.abc import Callable, Mapping

from pyiceberg.table import Table

from pipeline.warehouse.retries import retry_until_answered
from pipeline.warehouse.snapshots import PUBLISH_KEY, is_published


def commit_once(load: Callable[[], Table], commit: Callable[[Table, Mapping[str, str]], bool]) -> bool:
    """Commit, and start over after a lost race or while the catalog is away; never make the same commit twice.

    Args:
        load: loads the table as it is now.
        commit: takes it, and the snapshot properties that mark the commit.

    Returns: what `commit` returned.
    """
    mark = {PUBLISH_KEY: uuid.uuid4().hex}
    is_first = True

    @retry_until_answered
    def attempt() -> bool:
        nonlocal is_first
        table = load()
        # Of a commit that was not answered, only the table can tell whether it was made.
        if not is_first and is_published(table, mark[PUBLISH_KEY]):
            return True
        is_first = False
        return commit(table, mark)

    return attempt()
