"""What each rank of a fine-tuning job runs; the only training code that imports torch."""
