"""Moves, copies and restores a company: its tables, its models, its reports and lists.

The catalog comes last: as long as it is not there, nothing can be read in the new place, and a run that was killed goes
on where it stopped.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

from pipeline.config.settings import Settings
from pipeline.errors import FunnelError
from pipeline.models.tracking import DATABASE as REGISTRY
from pipeline.relocation.registry import copy_folder, copy_registry, registry_root, rewrite_registry
from pipeline.relocation.tables import copy_verified, hash_file
from pipeline.relocation.warehouse import Moved, as_one_line_error, begin_copy, copy_warehouse, relocate_in_place

CONTENTS = "backup.json"
"""What a backup consists of: every file's SHA-256, by its path in the backup."""
PARTS = ("warehouse", "models", "reports", "targets")
"""The folders of a backup, whatever the configuration calls its own."""


@as_one_line_error()
def relocate(settings: Settings) -> None:
    """Make a company whose folder was copied or moved one of its own, in place; print one line about each part.

    Raises:
        FunnelError: a file is missing or damaged; the tables are as they were.
    """
    folders = _folders(settings)
    models = folders.get("models")
    # First, so that a damaged registry is told before anything is switched.
    root = registry_root(models, settings.models.name) if models else None
    moved = relocate_in_place(folders["warehouse"])
    changed = rewrite_registry(models / REGISTRY, root, models) if root and models and root != models else 0
    if not moved.tables and not changed:
        print(f"nothing to do: all tables and models lie in {folders['warehouse'].parent} already")
        return
    print(f"warehouse  {len(moved.tables)} tables are those of {folders['warehouse']}: {_count(moved)}, verified")
    if changed:
        print(f"models     {changed} addresses now begin with {models}")


@as_one_line_error()
def move(settings: Settings, config: Path, to: Path) -> None:
    """Copy a company into a new folder and take its warehouse here out of use.

    Raises:
        FunnelError: the folder is not empty, a part lies outside the company's folder, or a file is missing or damaged.
    """
    to = to.resolve()
    folders = {}
    for name, folder in _folders(settings).items():
        if not folder.is_relative_to(settings.base):
            raise FunnelError(
                f"{folder} lies outside {settings.base}: make a backup, set another path of {name}, "
                "and restore it there"
            )
        folders[name] = to / folder.relative_to(settings.base)
    moved, _ = _copy(_folders(settings), folders, settings.models.name, config, to, retire=True)
    print(
        f"moved {len(moved.tables)} tables to {folders['warehouse']}: {_count(moved)}, verified; use {to / config.name}"
    )
    print(f"{settings.base} still has the old files, which nothing uses, and the source; remove or move them")


@as_one_line_error()
def back_up(settings: Settings, config: Path, to: Path) -> None:
    """Copy a company's tables, models, reports and lists as they are now, with the SHA-256 of every file.

    Raises:
        FunnelError: the folder is not empty, or a file is missing or damaged.
    """
    to = to.resolve()
    targets = {name: to / name for name in PARTS}
    moved, files = _copy(_folders(settings), targets, settings.models.name, config, to, retire=False)
    contents = {str(path.relative_to(to)): hash_file(path) for path in files}
    made = {"made_at": datetime.now(UTC).isoformat(), "name": settings.models.name, "files": contents}
    (to / CONTENTS).write_text(json.dumps(made, indent=1), encoding="utf-8")
    print(f"backed up {len(moved.tables)} tables, models, reports and lists to {to}: {len(contents):,} files, verified")


@as_one_line_error()
def restore(settings: Settings, backup: Path) -> None:
    """Bring a backup to where the configuration keeps its tables, models, reports and lists; replace nothing there.

    Raises:
        FunnelError: it is no backup, one of its files is missing or was changed, or there is a warehouse already.
    """
    backup = backup.resolve()
    try:
        made = json.loads((backup / CONTENTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise FunnelError(f"{backup} is no complete backup: it has no readable {CONTENTS}") from None
    targets = _folders(settings, existing=False)
    for name, sha256 in made["files"].items():
        path = backup / name
        if not path.is_file() or hash_file(path) != sha256:
            state = "was changed since" if path.is_file() else "is missing"
            raise FunnelError(f"the backup {backup} is not whole: {path} {state}; nothing was restored")
    sources = {name: backup / name for name in PARTS if (backup / name).exists()}
    moved, _ = _copy(sources, targets, made["name"], None, None, retire=False)
    print(
        f"restored {len(moved.tables)} tables to {targets['warehouse']}, as they were on {made['made_at'][:16]} UTC: "
        f"{_count(moved)}, verified"
    )


def _copy(
    sources: dict[str, Path],
    targets: dict[str, Path],
    name: str,
    config: Path | None,
    to: Path | None,
    *,
    retire: bool,
) -> tuple[Moved, list[Path]]:
    """Copy each part to its target, the warehouse last; returns its tables, and all files."""
    inside = [folder for folder in sources.values() if to and to.is_relative_to(folder)]
    if inside:
        raise FunnelError(f"{to} lies inside {inside[0]}, which is to be copied: name another folder")
    begin_copy(sources["warehouse"], targets["warehouse"], to or targets["warehouse"])
    files: list[Path] = []
    # What lies elsewhere now, such as models on an MLflow server, has no folder to go to.
    for part, target in targets.items():
        source = sources.get(part)
        if source is None or part == "warehouse":
            continue
        if part != "models" or not (source / REGISTRY).exists():
            files += copy_folder(source, target)
        elif (target / REGISTRY).exists():
            print(f"models are left as they are: {target} has a registry")
            files += [path for path in sorted(target.rglob("*")) if path.is_file()]
        else:
            files += copy_registry(source, target, name)
    if config and to:
        copy_verified(config.resolve(), to / config.name)
        files.append(to / config.name)
    moved = copy_warehouse(sources["warehouse"], targets["warehouse"], retire=retire)
    return moved, [*files, *moved.files]


def _folders(settings: Settings, *, existing: bool = True) -> dict[str, Path]:
    """A company's local folders, by the names of `PARTS`; those on other file systems are left where they are.

    Raises:
        FunnelError: the tables are in a catalog of the configuration's own.
    """
    if settings.warehouse.catalog:
        raise FunnelError("[warehouse] catalog is set: these commands move the default catalog's local files only")
    paths = {"warehouse": settings.warehouse.path, "reports": settings.reports.path, "targets": settings.targeting.path}
    if settings.models.tracking_uri is None:
        paths["models"] = settings.models.path
    resolved = {name: settings.resolve(path) for name, path in paths.items()}
    local = {name: Path(path) for name, path in resolved.items() if "://" not in path}
    return {name: path for name, path in local.items() if not existing or name == "warehouse" or path.exists()}


def _count(moved: Moved) -> str:
    return f"{len(moved.files):,} files"
