"""Flows of the tests' own, each in its folder as a user's package has it."""
