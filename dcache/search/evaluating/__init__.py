"""The loop of a search: candidates are rendered, measured and written down."""
