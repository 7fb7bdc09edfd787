"""Which run, evaluation and branch a denoiser call belongs to."""
