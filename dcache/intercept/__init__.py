"""Interception of module calls and of methods, and what must not be intercepted."""
