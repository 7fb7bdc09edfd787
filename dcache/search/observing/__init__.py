"""What an observation measures: passes over the sites, seconds, and tokens of attention."""
