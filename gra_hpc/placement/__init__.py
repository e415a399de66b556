"""Which engines go on which devices of a node. Planned from figures alone: nothing here starts a process.

`placement.solve` is the door. `workload` says how many calls and tokens each model gets, `performance` what one engine
does in a second, `hosts` what fits on a device, `search` finds the layout, `turns` whether models take turns. `report`
draws the result, `shortage` says what is missing.
"""
