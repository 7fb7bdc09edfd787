"""The row policies, one a file."""
