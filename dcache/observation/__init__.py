"""Observation of full runs: what the sites of a denoiser give, as tables for a profile."""
