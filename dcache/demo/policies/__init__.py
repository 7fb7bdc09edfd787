"""Two small trained diffusion policies and their tasks, to judge caching in a control loop on a CPU."""
