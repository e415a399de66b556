"""Fine-tuning on a release: full-parameter SFT with TRL's SFTTrainer on DeepSpeed.

`job` is submitted and requeued like a shard; `ranks` starts one process a GPU; `rank/` is what each of them runs, and
the only code of the package that imports torch at its top.
"""
