"""Row policies on masked-diffusion language models: quality beside rows, and what they cost."""
