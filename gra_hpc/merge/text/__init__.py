"""What the merge makes of a text: normal form, words, signatures."""
