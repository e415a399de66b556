"""The report beside a release."""
