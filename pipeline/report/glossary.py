"""The report's terms, explained to a first-time reader."""

GLOSSARY = {
    "Night": "One run of the pipeline over one day's data, named by that day's date in the funnel's time zone.",
    "Exposure": "A message sent to a user; the model learns to predict what follows it.",
    "Stage": "A step of the funnel that may follow a message, such as a click; also, of the pipeline, a step of the "
    "night.",
    "Score": "The probability that a user reaches a stage within its window if texted next.",
    "Band": "The night's users split into tenths by score; band 10 is the best tenth.",
    "Window, matured": "The number of days after a message in which an outcome still counts for it. An outcome has "
    "matured, and is final, once its whole window has passed.",
    "Calibrated": "Of 100 users with a score of 5%, about 5 reach the stage: scores are right on average.",
    "AUC": "The chance that of two messages, one with and one without the outcome, the first had the higher score: "
    "0.5 is a coin toss, 1 is perfect.",
    "Lift": "A group's rate as a multiple of the average: with a lift of 3, band 10 reaches the stage three times as "
    "often.",
    "Gains": "The share of all outcomes found in the best-scored share of messages.",
    "PSI": "Population stability index: how differently two groups of users spread over the same ten bins. 0 means "
    "alike; above 0.25 the shift is large.",
    "95% interval": "Where the true rate may lie, given how few were counted: 1 in 20 such intervals misses it.",
    "Target, control, holdout": "Users on a list who are texted; users drawn from the same list who are not, for this "
    "campaign; and users whom no campaign texts.",
    "Uplift": "The rate of those texted minus the rate of the control group: what the messages themselves caused.",
    "Qini curve": "Outcomes that messages caused, counted from the best rank down: it shows whether the ranking finds "
    "the users whom a message moves.",
    "Expert": "A small network inside the model; each stage mixes the experts with weights of its own.",
    "Quarantined": "Rejected on landing because something in the row was wrong; kept aside with the reason.",
}
