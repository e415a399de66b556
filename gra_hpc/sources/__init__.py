"""What is read from outside: seeds and benchmarks.

A path or a Hub id goes from `files` (which files it stands for) over `rows` (records out of any format) and `layouts`
(which field holds what) to `seeds` (a record, accepted or rejected by a stated rule). `benchmarks` are what rows are
compared with.
"""
