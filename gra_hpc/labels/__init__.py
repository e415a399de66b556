"""The mathematics of labels: what several annotators say of the same items, and what may be concluded from it.

`votes` decides one item, `dawid_skene` all items at once from who errs how; `agreement` is Krippendorff's alpha, `gold`
lays labels beside people's; `spans` finds quotes in a text, `nearest` the examples most like an item, `chain` decides
which link of a chain keeps an item. Nothing here knows a run, a model or a file.
"""
