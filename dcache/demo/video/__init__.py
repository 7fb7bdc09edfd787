"""A small trained text-to-video pipeline: coloured shapes that move over a plain background."""
