"""The report's words, explained to someone who meets them for the first time."""

GLOSSARY = {
    "Night": "One run of the pipeline over one day's data, named by that day's date in the funnel's time zone.",
    "Exposure": "A message that was sent to a user; what follows it is what the model learns to foresee.",
    "Stage": "A step of the funnel that may follow a message, such as a click; also, of the pipeline, a step of the "
    "night.",
    "Score": "The probability that a user gets to a stage within its window if texted next.",
    "Band": "The night's users cut into tenths by score; band 10 has the best tenth.",
    "Window, matured": "How many days after a message an outcome still counts for it. An outcome is matured, known for "
    "good, once its whole window has passed.",
    "Calibrated": "Of 100 users with a score of 5%, about 5 get there: the promise holds on average.",
    "AUC": "The chance that of two messages, one with and one without the outcome, the first had the higher score: "
    "0.5 is a coin's, 1 perfect.",
    "Lift": "How many times the average rate a group has: band 10 with lift 3 gets there three times as often.",
    "Gains": "The share of all outcomes found among the best-scored share of messages.",
    "PSI": "Population stability index: how differently two groups of users spread over the same ten bins. 0 is alike, "
    "above 0.25 the shift is large.",
    "95% interval": "Where the true rate may lie, given how few were counted: of 20 such intervals one misses it.",
    "Target, control, holdout": "Users on a list who are texted; users drawn from the same list who are not, for this "
    "campaign; and users whom no campaign texts.",
    "Uplift": "The rate of those texted less the rate of control: what the messages themselves caused.",
    "Qini curve": "Outcomes that messages caused, counted from the best rank down: it shows whether the ranking finds "
    "those whom a message moves.",
    "Expert": "A small network inside the model; each stage mixes the experts with weights of its own.",
    "Quarantined": "Rejected on landing, since something in the row was wrong; kept aside with the reason.",
}
