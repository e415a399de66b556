"""Models on disk: where their files lie (`hub`, `files`), what placement must know of them (`facts`), and the sentence
embedder, which runs in a process of its own. No engine is started here.
"""
