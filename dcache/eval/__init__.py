"""Evaluation of cached pipelines against uncached ones: generate, score, compare, report, bench.

Nothing is here yet. What will be: FID, CLIP score, PSNR, SSIM and LPIPS of cached against uncached
pictures, and wall clock, memory and MACs of several methods side by side, with the machine they were
measured on.
"""
