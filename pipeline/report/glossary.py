"""The report's terms, explained to a first-time reader."""


def build_glossary(exposure: str, exposures: str) -> dict[str, str]:
    """Each term and its meaning.

    Args:
        exposure, exposures: what the funnel calls one and several, such as `message`.
    """
    return {
        "Night": "One run of the pipeline over one day's data, named by that day's date in the funnel's time zone.",
        "Exposure": f"What a user was sent or shown, in this funnel each {exposure}; the model learns to predict what "
        "follows it.",
        "Stage": "A step of the funnel that may follow an exposure, such as a click; also, of the pipeline, a step of "
        "the night.",
        "Score": f"The probability that a user reaches a stage within its window after the next {exposure}.",
        "Band": "The night's users split into tenths by score; band 10 is the best tenth.",
        "Window, matured": "The number of days after an exposure in which an outcome still counts for it. An outcome "
        "has matured, and is final, once its whole window has passed.",
        "Calibrated": "Of 100 users with a score of 5%, about 5 reach the stage: scores are right on average.",
        "AUC": f"The chance that of two {exposures}, one with and one without the outcome, the first had the higher "
        "score: 0.5 is a coin toss, 1 is perfect.",
        "Context": f"What is known of the {exposure} itself, such as its hour. A night's scores do not know it.",
        "Held out": "The latest days before a training: the model did not learn from them, so that they show what it "
        "is worth.",
        "Lift": "A group's rate as a multiple of the average: with a lift of 3, band 10 reaches the stage three times "
        "as often.",
        "Gains": f"The share of all outcomes found in the best-scored share of {exposures}.",
        "PSI": "Population stability index: how differently two groups of users spread over the same ten bins. 0 "
        "means alike; above 0.25 the shift is large.",
        "95% interval": "Where the true rate may lie, given how few were counted: 1 in 20 such intervals misses it.",
        "Target, control, holdout": "Users whom a list selects; users drawn from the same list who are left alone, "
        "for this campaign; and users whom every campaign leaves alone.",
        "Uplift": f"The targets' rate minus the control group's: what the {exposures} themselves caused.",
        "Qini curve": f"Outcomes that {exposures} caused, counted from the best rank down: it shows whether the "
        f"ranking finds the users whom they move.",
        "Expert": "A small network inside the model; each stage mixes the experts with weights of its own.",
        "Quarantined": "Rejected on landing because something in the row was wrong; kept aside with the reason.",
    }
