"""The release: merged rounds -> a dataset directory with card, manifest, rejects and report, that can be checked."""
