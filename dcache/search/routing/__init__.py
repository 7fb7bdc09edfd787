"""HarmoniCa's learned router, and the sublayers that it is trained on."""
