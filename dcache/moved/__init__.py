"""Old documented paths of modules, kept until 0.3: `dcache.discovery` is found here, and warns.

`dcache/__init__.py` adds this folder to the package's search path. `tools/move_imports.py` rewrites imports.
"""
