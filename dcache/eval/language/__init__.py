"""What a compressed KV cache has lost: questions to contexts, answered from the cache; and what it costs."""
