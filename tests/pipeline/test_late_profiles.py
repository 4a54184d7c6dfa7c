"""Profiles that land on the day of a user's only message, as a fine's do: warned of, refused, and right once static.

What a user pays by is the amount alone. Features are those of the evening before a message, so no example knows it.
"""

from collections.abc import Callable, Iterator
from datetime import date, timedelta

import numpy as np
import pytest

from pipeline.dates import DateRange
from pipeline.errors import AuditError
from pipeline.models.registry import Registry
from pipeline.nights import load_history
from pipeline.runs.context import Context
from tests.support.commands import Ended
from tests.support.company import Company
from tests.support.funnels import sms

pytestmark = pytest.mark.slow

FIRST = date(2026, 1, 1)
DAYS, A_DAY = 60, 60
AS_OF = FIRST + timedelta(days=DAYS - 1)
LAST = AS_OF + timedelta(days=1)
LATE = {
    'stages = [\n  { name = "click",    event = "sms_click",            window_days = 3 },\n'
    '  { name = "register", event = "register",             window_days = 7 },\n'
    '  { name = "complete", event = "complete_application", window_days = 14 },\n]': (
        'stages = [{ name = "paid", event = "payment", window_days = 7 }]'
    ),
    'categorical = ["city_tier"]\nnumeric = ["age"]\ncontext = ["offer", "hour"]': 'numeric = ["age"]',
}
"""One stage, and one attribute of a user: `age` stands for the amount of the fine."""
EXTRA = "[training]\nepochs = 8\nexpert_units = [8]\nexperts = 2\n[scoring]\n"


def pays(amount: float) -> float:
    """The probability that a fine is paid within the week."""
    return 0.5 if amount < 50 else 0.05


@pytest.fixture(scope="module")
def city(spark: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    """Fines of 60 days, loaded: each user has one, and a profile that lands with it."""
    company = Company.make(tmp_path_factory.mktemp("city"), EXTRA, replace=LATE)
    draw, paid = np.random.default_rng(7), dict[date, list[dict[str, str | None]]]()
    for number in range(DAYS + 1):
        day, events, users = FIRST + timedelta(days=number), paid.pop(FIRST + timedelta(days=number), []), []
        for position in range(A_DAY):
            user, amount = f"{day}-{position:02}", float(draw.choice([20, 35, 80, 140]))
            users.append({"uid": user, "sms_consent": True, "age": amount})
            events.append(sms(f"fine-{user}", user, f"{day}T10:00:00+08:00"))
            if draw.random() < pays(amount):
                on = day + timedelta(days=int(draw.integers(1, 7)))
                payment = sms(f"paid-{user}", user, f"{on}T12:00:00+08:00", type="payment")
                paid.setdefault(on, []).append(payment)
        company.land(day, events, users)
    load_history(company.context(is_bulk=True), DateRange(FIRST, AS_OF))
    yield company


def test_a_model_that_learned_nothing_is_warned_of_and_refused(city: Company, funnel: Callable[..., Ended]) -> None:
    said = funnel("train", "--as-of", AS_OF, "-c", city.config).out
    assert "age: missing in 100% of the 3,180 examples, but in 0% of the users that a night scores" in said
    assert "if it never changes, name it in features.static" in said
    assert "not promoted: no better than a constant on stage 'paid'" in said
    shares = {row["feature"]: row["value"] for row in city.rows("metrics") if row["name"] == "missing_in_examples"}
    assert (shares["age"], shares["exposure_n_7d"]) == (1.0, 0.0)
    assert Registry(city.settings).champion(AS_OF) is None
    complaint = funnel("nightly", "--ds", LAST, "-c", city.config).complaint
    assert "no model trained on data up to 2026-03-02 was promoted: run `funnel train --as-of`" in complaint


def test_promoted_by_hand_each_night_and_its_report_tell_what_it_lacks(
    city: Company, funnel: Callable[..., Ended]
) -> None:
    (version,) = (each.version for each in Registry(city.settings).versions())
    assert funnel("promote", version, "-c", city.config).code == 0
    said = funnel("nightly", "--ds", LAST, "-c", city.config).out
    assert "missing share of age, compared with the examples that taught the model," in said
    page = (city.folder / "reports" / f"{LAST}.html").read_text(encoding="utf-8")
    assert "Compared with examples" in page and "Nothing: the scores may be used" not in page
    funnel("report", "--ds", AS_OF, "-c", city.config)
    page = (city.folder / "reports" / f"{AS_OF}.html").read_text(encoding="utf-8")
    assert "promoted by hand" in page and "not promoted" not in page


def test_declared_static_it_teaches_and_a_night_tells_users_apart(city: Company, funnel: Callable[..., Ended]) -> None:
    text = city.config.read_text(encoding="utf-8").replace('numeric = ["age"]', 'numeric = ["age"]\nstatic = ["age"]')
    city.config.write_text(text, encoding="utf-8")
    said = funnel("train", "--as-of", AS_OF, "-c", city.config).out
    assert "age: missing in" not in said
    # What the champion took for the age is another thing.
    assert ": promoted: the champion cannot score these examples" in said and "it knows age as the newest value" in said
    examples = city.context().warehouse.arrow("examples", first=AS_OF, last=AS_OF).to_pandas()
    assert examples["age"].notna().all() and len(examples) == DAYS * A_DAY
    said = funnel("nightly", "--ds", LAST, "-c", city.config).out
    assert "missing share of age, compared" not in said
    scores = {row["user_id"]: row["p_paid"] for row in city.rows("user_scores") if row["ds"] == LAST}
    amounts = {row["user_id"]: row["age"] for row in city.rows("users")}
    low, high = ([scores[user] for user in scores if (amounts[user] < 50) == is_low] for is_low in (True, False))
    assert min(low) > 2 * max(high)


def test_what_changes_is_told_and_refused_as_static(city: Company) -> None:
    changed = LAST + timedelta(days=1)
    users = [{"uid": f"{FIRST}-{n:02}", "sms_consent": True, "age": 1000.0} for n in range(A_DAY)]
    for count, kind in ((20, "warned of"), (A_DAY, "refused")):
        city.land(changed, [sms("fine-last", "last", f"{changed}T10:00:00+08:00")], users[:count])
        load_history(city.context(), DateRange(changed, changed))
        if kind == "warned of":
            build(city.context(), changed)
            (line,) = (line for line in city.lines if "features.static" in line)
            assert (
                "age is in features.static, but 20 of 3,660 users have several values, such as '2026-01-01-00' ("
                in line
            )
            assert line.endswith(" and 1000.0): the first one given holds")
            rows = city.context().warehouse.arrow("examples", first=changed, last=changed).to_pandas()
            assert rows["age"].max() == 140
        else:
            with pytest.raises(AuditError, match=r"age is in features.static, but 60 of 3,660 users .* take it out of"):
                build(city.context(), changed)


def build(context: Context, as_of: date) -> None:
    from pipeline.features.examples import build_examples

    build_examples(context, as_of)
