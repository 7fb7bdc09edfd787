"""What a model family needs beyond the discovery of its blocks.

Nothing is here yet. What will be: UNets with their skip connections, diffusion policies for robots, and
diffusion language models, one file for each family.
"""
