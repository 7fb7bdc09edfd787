"""What a layer holds: packed segments, a dense tail, and what becomes of tokens that are not kept."""
