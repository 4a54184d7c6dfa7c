"""The configuration: what it takes, and how it reports a mistake."""

import re
import tomllib
from collections.abc import Callable, Mapping
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import get_args

import pytest

from model import ModelConfig
from model.config import ArchitectureName as ModelArchitecture
from pipeline.config.base import reveal
from pipeline.config.sections import Architecture
from pipeline.config.settings import Settings, load
from pipeline.errors import ConfigError
from pipeline.warehouse.tables import all_tables
from tests.support.company import Company


def complaint(company: Company) -> str:
    """The error of loading a company's configuration, without the file's name, which it must begin with."""
    with pytest.raises(ConfigError) as raised:
        load(company.config)
    line = str(raised.value)
    assert "\n" not in line
    assert line.startswith(f"{company.config}: ")
    return line.removeprefix(f"{company.config}: ")


# The text that replaces another, and what the error must name: the key, what it got, what it takes.
MISTAKES: Mapping[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "number out of range": (
        {"window_days = 3 ": "window_days = 0 "},
        ("funnel.stages[0].window_days", "got 0", "takes a number greater than 0"),
    ),
    "text for a number": (
        {"window_days = 3 ": 'window_days = "soon" '},
        ("funnel.stages[0].window_days", "got 'soon'", "takes a valid integer"),
    ),
    "number for text": (
        {'"spark.default.parallelism" = "2"': '"spark.default.parallelism" = 2'},
        ("spark.conf", "got a value that is not shown", "takes a valid string"),
    ),
    "one of a few words": (
        {"last_touch": "first_touch"},
        ("funnel.attribution", "got 'first_touch'", "takes 'last_touch' or 'any_in_window'"),
    ),
    "unknown zone": (
        {"Asia/Shanghai": "Asia/Shangai"},
        ("funnel.timezone", "got 'Asia/Shangai'", "takes an IANA time zone such as 'Asia/Shanghai'"),
    ),
    "zone that is a path": ({"Asia/Shanghai": "../etc/passwd"}, ("funnel.timezone", "got '../etc/passwd'")),
    "misspelt key": (
        {"windows_days": "window_days"},
        ("features.window_days is not a key", "did you mean 'windows_days'?"),
    ),
    "misspelt section": ({"[source.users]": "[source.user]"}, ("source.user is not a key", "'users'")),
    "key like no other": (
        {"[features]": "[features]\nxyz = 1"},
        ("features.xyz is not a key", "it takes windows_days, categorical, numeric, static, context"),
    ),
    "the file's own folder as a key": ({"\n[funnel]": 'base = "/tmp"\n[funnel]'}, ("base is not a key",)),
    "missing key": ({'timezone = "Asia/Shanghai"': ""}, ("funnel.timezone is missing",)),
    "repeated stage": ({'name = "register"': 'name = "click"'}, ("funnel", "different names", "'click' repeats")),
    "repeated event": (
        {'event = "register"': 'event = "sms_click"'},
        ("funnel", "different events", "'sms_click' repeats"),
    ),
    "stage named as the exposure": ({'name = "click"': 'name = "exposure"'}, ("'exposure' repeats",)),
    "stage name no column can have": (
        {'name = "click"': 'name = "Click!"'},
        ("funnel.stages[0].name", "got 'Click!'", "takes a lower-case name"),
    ),
    "context that is not declared": (
        {'context = ["offer", "hour"]': 'context = ["tone"]'},
        ("features.context", "'tone'", "declares only: offer, campaign, hour"),
    ),
    "planned context that no model sees": (
        {"[spark]": '[scoring]\ncontext = { tone = "warm" }\n[spark]'},
        ("scoring.context", "'tone'", "features.context does not declare"),
    ),
    "windows out of order": (
        {"[1, 7, 30]": "[7, 1, 30]"},
        ("features.windows_days", "got [7, 1, 30]", "takes days in ascending order"),
    ),
    "window twice": ({"[1, 7, 30]": "[1, 7, 7]"}, ("features.windows_days", "each once")),
    "no window": ({"[1, 7, 30]": "[]"}, ("features.windows_days", "got []", "at least 1")),
    "share above one": (
        {"[spark]": "[audit]\nmax_quarantine_share = 1.5\n[spark]"},
        ("audit.max_quarantine_share", "got 1.5", "takes a number less than or equal to 1"),
    ),
    "ratios out of order": (
        {"[spark]": "[audit]\nrow_count_ratio = [3.0, 0.3]\n[spark]"},
        ("audit.row_count_ratio", "got [3.0, 0.3]", "takes the lowest and the highest ratio"),
    ),
    "column that events do not have": (
        {'event_id = "id"': 'evnt_id = "id"'},
        ("source.events.columns", "'evnt_id'", "one of the columns user_id, event, event_time"),
    ),
    "misspelt consent": (
        {'consent = "sms_consent"': 'consnt = "sms_consent"'},
        (
            "source.users.columns",
            "'consnt'",
            "one of the columns user_id, consent, time_zone, landed_on, updated_at, city_tier",
        ),
    ),
    "required column of events": (
        {'event_time = "ts", ': ""},
        ("source.events.columns has no 'event_time'", "map it"),
    ),
    "required column of users": (
        {'columns = { user_id = "uid", consent': "columns = { consent"},
        ("source.users.columns has no 'user_id'",),
    ),
    "attributes without users": (
        {'[source.users]\npath = "source/users/{ds}"\ncolumns = { user_id = "uid", consent = "sms_consent" }\n': ""},
        ("features.categorical and features.numeric need a [source.users]",),
    ),
    "attribute of two kinds": ({'numeric = ["age"]': 'numeric = ["city_tier"]'}, ("features", "'city_tier'", "twice")),
    "attribute named as an own column": ({'numeric = ["age"]': 'numeric = ["exposure_date"]'}, ("'exposure_date'",)),
    "attribute named as a label": ({'numeric = ["age"]': 'numeric = ["label_click"]'}, ("'label_click'",)),
    "attribute named as a count": ({'numeric = ["age"]': 'numeric = ["click_n_7d"]'}, ("'click_n_7d'",)),
    "number for a section": ({"\n[funnel]": "training = 3\n[funnel]"}, ("training", "got 3")),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_that_names_the_key(make_company: Callable[..., Company], mistake: str) -> None:
    replace, pieces = MISTAKES[mistake]
    line = complaint(make_company(replace=replace))
    for piece in pieces:
        assert piece in line


def test_several_mistakes_are_counted(make_company: Callable[..., Company]) -> None:
    replace = {"window_days = 3 ": "window_days = 0 ", "window_days = 7 ": "window_days = -1 "}
    assert complaint(make_company(replace=replace)).endswith("(and 1 more)")


def test_a_misspelt_key_is_reported_before_the_key_that_it_leaves_missing(make_company: Callable[..., Company]) -> None:
    line = complaint(make_company(replace={"timezone =": "time_zone ="}))
    assert line.startswith("funnel.time_zone is not a key of the configuration; did you mean 'timezone'?")


def test_invalid_toml_names_the_place(company: Company) -> None:
    company.config.write_text("[funnel\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=re.escape(f"{company.config} is not valid TOML: ") + ".*line 1"):
        load(company.config)


def test_a_file_that_is_not_text(company: Company) -> None:
    company.config.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        load(company.config)


def test_a_missing_file_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no configuration at .*nowhere\.toml: name one with --config or FUNNEL_CONF"
    ):
        load(tmp_path / "nowhere.toml")


def test_a_folder_cannot_be_read_as_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)


def test_the_environment_overrides_the_file(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUNNEL_SPARK__DRIVER_MEMORY", "4g")
    monkeypatch.setenv("FUNNEL_FEATURES__WINDOWS_DAYS", "[2, 4]")
    settings = load(company.config)
    assert settings.spark.driver_memory == "4g"
    assert settings.features.windows_days == (2, 4)
    assert reveal(settings.spark.conf)["spark.default.parallelism"] == "2", "the rest of the section is the file's"


@pytest.mark.parametrize(
    ("variable", "value", "pieces"),
    [
        ("FUNNEL_SPARK__MEMORY", "4g", ("spark.memory is not a key", "did you mean 'driver_memory'?")),
        ("FUNNEL_TRAINING__EPOCHS", "0", ("training.epochs", "got '0'", "greater than 0")),
        ("FUNNEL_FEATURES__WINDOWS_DAYS", "1,7", ("FUNNEL_FEATURES__WINDOWS_DAYS", "got '1,7'", "takes JSON")),
        ("FUNNEL_SPARK", "4g", ("FUNNEL_SPARK takes JSON", "at character 2", "not shown")),
    ],
)
def test_a_mistake_in_the_environment_is_reported_in_one_line(
    company: Company, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, pieces: tuple[str, ...]
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as raised:
        load(company.config)
    assert "\n" not in str(raised.value)
    for piece in pieces:
        assert piece in str(raised.value)


def with_stages(folder: Path, *names: str) -> Path:
    stages = ", ".join(f'{{ name = "{name}", event = "Event: {name}", window_days = 2 }}' for name in names)
    config = folder / "funnel.toml"
    config.write_text(
        f'[funnel]\ntimezone = "UTC"\nexposure = "call"\nstages = [{stages}]\n'
        '[source.events]\ncolumns = { user_id = "u", event = "e", event_time = "t" }\n',
        encoding="utf-8",
    )
    return config


def test_a_funnel_has_a_stage(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"funnel.stages: got \[\], takes a list of at least 1$"):
        load(with_stages(tmp_path))


@pytest.mark.parametrize("number", [1, 2, 7])
def test_any_number_of_stages_with_any_names(tmp_path: Path, number: int) -> None:
    names = [f"step_{n}" for n in range(number)]
    settings = load(with_stages(tmp_path, *names))
    assert settings.funnel.stage_names == tuple(names)
    scores = all_tables(settings)["user_scores"].schema.names
    for name in names:
        assert {f"p_{name}", f"raw_{name}", f"band_{name}"} <= set(scores)


def test_relative_paths_start_at_the_file(company: Company) -> None:
    settings = load(company.config)
    assert settings.resolve("source/{ds}", date(2026, 3, 1)) == str(company.folder.resolve() / "source" / "2026-03-01")
    assert settings.resolve("/data/{ds}") == "/data/{ds}"
    assert settings.resolve("s3://bucket/{ds}", date(2026, 3, 1)) == "s3://bucket/2026-03-01"


def test_the_demo_s_configuration_loads(tmp_path: Path) -> None:
    text = files("pipeline").joinpath("demo.toml").read_text(encoding="utf-8")
    config = tmp_path / "funnel.toml"
    config.write_text(text, encoding="utf-8")
    assert load(config).funnel.stage_names == ("click", "register", "complete")
    assert set(tomllib.loads(text)) <= set(Settings.model_fields)


def test_every_architecture_takes_the_chain_head_under_which_stages_never_rise() -> None:
    for architecture in get_args(Architecture):
        assert ModelConfig(architecture=architecture, head="chain").head == "chain"
    assert set(get_args(ModelArchitecture)) - set(get_args(Architecture)) == {"single_task"}


def test_another_placeholder_than_ds_in_a_path_is_refused(tmp_path: Path) -> None:
    config = with_stages(tmp_path, "click")
    text = config.read_text(encoding="utf-8")
    for path, named in (("events/{date}", "{date}"), ("events/{ds}/{HOUR}", "{HOUR}")):
        config.write_text(text.replace("[source.events]", f'[source.events]\npath = "{path}"'), encoding="utf-8")
        with pytest.raises(ConfigError, match=re.escape(f"{{ds}} for the landing day, in the place of {named}")):
            load(config)
    config.write_text(text.replace("[source.events]", '[source.events]\npath = "{a,b}/{ds}"'), encoding="utf-8")
    assert load(config).source.events.is_partitioned


def test_values_nested_too_deeply_are_one_line(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUNNEL_CAMPAIGNS", "[" * 100_000)
    with pytest.raises(ConfigError, match="nested too deeply"):
        load(company.config)


STORE = """
[storage]
endpoint = "https://minio:9000"
access_key = "night-key"
secret_key = "night-secret"
"""


def test_one_table_says_where_the_object_store_is(make_company: Callable[..., Company]) -> None:
    storage = make_company(STORE).settings.storage
    assert storage.iceberg == {
        "s3.endpoint": "https://minio:9000",
        "s3.region": "us-east-1",
        "s3.access-key-id": "night-key",
        "s3.secret-access-key": "night-secret",
    }
    s3a = {name.removeprefix("spark.hadoop.fs.s3a."): value for name, value in storage.spark.items()}
    assert s3a == {
        "spark.hadoop.fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
        "endpoint": "https://minio:9000",
        "endpoint.region": "us-east-1",
        "access.key": "night-key",
        "secret.key": "night-secret",
        "path.style.access": "true",
    }


def test_buckets_can_be_in_the_host_s_name(make_company: Callable[..., Company]) -> None:
    storage = make_company(STORE + "path_style = false\n").settings.storage
    assert storage.iceberg["s3.force-virtual-addressing"] == "true"
    assert "spark.hadoop.fs.s3a.path.style.access" not in storage.spark


def test_without_the_table_aws_s_own_settings_count(company: Company) -> None:
    assert company.settings.storage.iceberg == {}
    assert [*company.settings.storage.spark] == ["spark.hadoop.fs.s3.impl"]


def test_a_secret_of_the_store_can_come_from_the_environment(
    make_company: Callable[..., Company], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUNNEL_STORAGE__SECRET_KEY", "of-the-environment")
    settings = make_company('[storage]\naccess_key = "night-key"\n').settings
    assert settings.storage.iceberg["s3.secret-access-key"] == "of-the-environment"
    assert "of-the-environment" not in f"{settings!r}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[storage]\nendpoint = "minio:9000"\n', "storage.endpoint: got 'minio:9000', takes an address without a path"),
        ('[storage]\naccess_key = "night-key"\n', "storage: access_key needs secret_key"),
        (
            '[warehouse]\npath = "s3://bucket/tables"\n',
            "warehouse: path: got 's3://bucket/tables', takes a local folder",
        ),
    ],
)
def test_a_store_that_is_not_told_well(make_company: Callable[..., Company], text: str, said: str) -> None:
    assert complaint(make_company(text)).startswith(said)
