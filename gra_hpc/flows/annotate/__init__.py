"""Labels for existing records: several members label each, and what they disagree on goes to the Adjudicator.

Begin with `label.py`, the way of one item; `flow.py` describes the flow. `questions` says what a member is asked and
what its answer is, for all kinds of labels; `decide` what the answers of one item come to; `draw` who is asked, with
which examples; `views/` what is written at the end, and how far annotators agree. The mathematics is in
`gra_hpc/labels/`.
"""
