"""Census-Income as a table, for the benchmark of architectures: columns, tasks, inputs and split.

UCI Census-Income (KDD), with two groups of tasks as in section 6.2 of Ma et al., "Modeling Task Relationships in
Multi-task Learning with Multi-gate Mixture-of-Experts", KDD 2018. Only the file that UCI calls the test half is read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from model import Categorical, Feature, Numeric
from tests.benchmarks.tuning import Split

FILE = "census-income.test.gz"
COLUMNS = (
    "age",
    "class_of_worker",
    "industry",
    "occupation",
    "education",
    "wage_per_hour",
    "enrolled_last_week",
    "marital_status",
    "major_industry",
    "major_occupation",
    "race",
    "hispanic_origin",
    "sex",
    "union_member",
    "unemployment_reason",
    "employment",
    "capital_gains",
    "capital_losses",
    "dividends",
    "tax_filer",
    "previous_region",
    "previous_state",
    "household_detail",
    "household_summary",
    "instance_weight",
    "migration_msa",
    "migration_region",
    "migration_within_region",
    "same_house",
    "previous_sunbelt",
    "employer_size",
    "parents_present",
    "father_born",
    "mother_born",
    "self_born",
    "citizenship",
    "own_business",
    "veteran_questionnaire",
    "veteran_benefits",
    "weeks_worked",
    "year",
    "income",
)
"""In the order of the file, which has no header."""
NUMBERS = ("age", "employer_size", "weeks_worked")
AMOUNTS = ("wage_per_hour", "capital_gains", "capital_losses", "dividends")
"""0 for nine people in ten. Many others share a few exact values, some of which reveal who they are."""
NOT_INPUTS = ("education", "marital_status", "income", "instance_weight")
"""The columns behind the three tasks, and the row weights of the survey's sampling."""
COLLEGE = (
    "Associates degree-occup /vocational",
    "Associates degree-academic program",
    "Bachelors degree(BA AB BS)",
    "Masters degree(MA MS MEng MEd MSW MBA)",
    "Prof school degree (MD DDS DVM LLB JD)",
    "Doctorate degree(PhD EdD)",
)
GROUPS = {"income": ("income", "never_married"), "education": ("college", "never_married")}
"""Each group's tasks, the main one first."""
SPLIT_SEED = 20180819


def features() -> list[Feature]:
    """The same for both groups. Codes of industries and occupations are categorical; an amount is both."""
    labels = [name for name in COLUMNS if name not in (*NUMBERS, *AMOUNTS, *NOT_INPUTS)]
    return [
        *(Categorical(name) for name in labels),
        *(Categorical(f"{name}_exact", max_vocabulary=200) for name in AMOUNTS),
        *(Numeric(name) for name in NUMBERS),
        *(Numeric(name, transform="quantile") for name in AMOUNTS),
    ]


def read(folder: Path) -> pa.Table:
    """Read one column per feature and one label per task.

    An amount of 0 becomes null as a number, so that quantiles, of the transform and of the bins, describe only the
    people who have such an amount.
    """
    text = pa.csv.read_csv(
        folder / FILE,
        read_options=pa.csv.ReadOptions(column_names=COLUMNS),
        convert_options=pa.csv.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.string())),
    )
    text = pa.table({name: pc.utf8_trim_whitespace(text[name]) for name in COLUMNS})
    table = text.drop_columns([*NOT_INPUTS, *NUMBERS, *AMOUNTS])
    for name in NUMBERS:
        table = table.append_column(name, text[name].cast(pa.float64()))
    for name in AMOUNTS:
        amount = text[name].cast(pa.float64())
        table = table.append_column(f"{name}_exact", text[name])
        table = table.append_column(name, pc.if_else(pc.equal(amount, 0.0), None, amount))
    table = table.append_column("label_income", pc.equal(text["income"], "50000+.").cast(pa.int8()))
    table = table.append_column("label_college", pc.is_in(text["education"], pa.array(COLLEGE)).cast(pa.int8()))
    return table.append_column("label_never_married", pc.equal(text["marital_status"], "Never married").cast(pa.int8()))


def split(table: pa.Table, *, seed: int = SPLIT_SEED) -> Split:
    """Split rows at random into two thirds and one third; a fifth of the two thirds is the validation part."""
    order = np.random.default_rng(seed).permutation(table.num_rows)
    rest, test = np.split(order, [2 * table.num_rows // 3])
    train, validation = np.split(rest, [len(rest) - len(rest) // 5])
    return Split(*(table.take(pa.array(np.sort(rows))) for rows in (train, validation, test)))
