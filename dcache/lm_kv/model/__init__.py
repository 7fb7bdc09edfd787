"""The model's side: its decoder, its attention, its positions, its calls and its text."""
