"""Methods that plan by themselves: what is observed of a run, what is learned, and where it is kept."""
