"""One picture of results/training_step.md and results/night.md: the model next to its peers, the night by its stages.

python -m tests.benchmarks.performance_plot
"""

from __future__ import annotations

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from tests.benchmarks.harness import RESULTS

STAGES = ("ingest", "activity", "score", "monitor")


def tables(text: str) -> list[list[dict[str, str]]]:
    """The Markdown tables of a text, a dictionary a row.

    >>> tables("| a | b |\\n|---|---|\\n| 1 | 2 |\\n\\ntext\\n")
    [[{'a': '1', 'b': '2'}]]
    """
    found = []
    for block in text.split("\n\n"):
        lines = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.splitlines()]
        if block.startswith("|"):
            found.append([dict(zip(lines[0], line, strict=True)) for line in lines[2:]])
    return found


def number(cell: str) -> float:
    """The number a cell starts with.

    >>> number("18,280"), number("37.2 s, 1.48 GiB"), number("65%")
    (18280.0, 37.2, 65.0)
    """
    return float(cell.split()[0].rstrip("%").replace(",", ""))


def main() -> None:
    """Draw results/performance.svg."""
    training, inference, *_ = tables((RESULTS / "training_step.md").read_text(encoding="utf-8"))
    nights = tables((RESULTS / "night.md").read_text(encoding="utf-8"))[0]
    plt.rcParams |= {"svg.hashsalt": "funnelcast", "font.size": 9}
    figure, (rates, night) = plt.subplots(1, 2, figsize=(10, 3.4))
    for place, (name, rows) in enumerate({"train": training, "score": inference}.items()):
        for offset, row in enumerate(rows):
            at = place + (offset - 1.5) * 0.2
            bar = rates.bar(at, number(row["rows/s"]) / 1000, 0.18, color=f"C{offset}", label=row["contender"])
            rates.bar_label(bar, [row["of the limit"]], fontsize=7)
            if place:
                bar.set_label("_")
        rates.text(place, 0, f"\n\n{name}", ha="center", va="top")
    rates.set_xticks([])
    rates.set_ylabel("thousand rows a second")
    rates.set_title("One MMoE on two cores; % of the float32 limit")
    rates.legend(frameon=False, fontsize=8)
    last = {(row["users"], row["days"]): row for row in nights}  # the night that starts from an existing state
    names = [f"{users}\n{days} days" for users, days in last]
    bottom = [0.0] * len(last)
    for stage in STAGES:
        seconds = [number(row[stage]) for row in last.values()]
        night.bar(names, seconds, 0.6, bottom=bottom, label=stage)
        bottom = [below + more for below, more in zip(bottom, seconds, strict=True)]
    night.set_ylabel("seconds")
    night.set_title("A night, by users and length of history")
    night.legend(frameon=False, fontsize=8)
    for axes in (rates, night):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(RESULTS / "performance.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
