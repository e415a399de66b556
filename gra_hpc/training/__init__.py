"""Fine-tuning on a release: full-parameter SFT with TRL's SFTTrainer on DeepSpeed. `worker` is what each rank runs."""
