"""Pictures of fixed prompts and seeds, and results that outlive a kill."""
