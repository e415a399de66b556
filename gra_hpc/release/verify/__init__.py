"""Whether a release is what its manifest says."""
