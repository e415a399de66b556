"""GRA, the paper's method (arXiv 2504.12322): a Generator proposes, Reviewers score, an Adjudicator settles disputes.

`synthesize` is one candidate from examples to accepted or rejected; `refine` answers a seed's instruction anew;
`prepare` describes seeds; `keep` lets them through. `committee` draws the roles and decides; `questions` says what
each role is asked, with the templates in `prompts/`.
"""
