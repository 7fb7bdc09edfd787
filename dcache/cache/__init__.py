"""What is remembered: codecs, histories, their bytes."""
