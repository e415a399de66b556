"""GRA, the paper's method: Generator, Reviewers, Adjudicator."""
