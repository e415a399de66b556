"""Which engines go on which devices."""
