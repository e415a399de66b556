"""The committee's judgement, looked at afterwards: decided again from stored scores, and laid beside people's.

`scores` reads what decides of a table's rows, `decisions` is the committee's rule over columns, `again` makes a run of
its own of another decision, `sweep` lays many thresholds side by side. `audit` makes the page on which people judge
samples, `labels` compares what they say with the committee.
"""
