"""`dcache studio`: a local page that shows one picture or clip uncached and cached, side by side.

`form` reads what the page asks for, `compare` makes both sides with `run_once`, `studio` does so on a thread
of its own and keeps the results, `server` has the page and its addresses. The page opens no files.
"""
