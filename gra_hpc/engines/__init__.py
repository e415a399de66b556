"""Engines at work: processes that host models, behind one narrow door (`flows.calls.Engine`).

From the outside in: `node` (all engines of a node as one), `dispatcher` (one model's replicas and the calls that wait
for them), `replica` (keeps one engine running), `process` (started under its guard, watched, ended), `vllm_server`
(its command line). A call that fails is asked again in `dispatcher`; an engine that dies is started again in
`replica`, as often as `restarts` allows; `suspects` finds the call at fault. `rotation` lets models take turns.
`guard` and `leftovers` see that nothing stays behind.
"""
