"""Two small trained masked-diffusion language models, so that row caching can be judged on a CPU."""
