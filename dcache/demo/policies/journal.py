"""The journal of a bench: one line of JSON for each episode, appended when it ends."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path

from dcache.demo.policies.closed_loop import Result

NAMES = {field.name for field in fields(Result)}


class Journal:
    """Results of episodes by setting, kept in a file.

    Args:
        path: the file; it is continued if it exists. Lines of another policy, and torn ones, are ignored.
        policy: digest of the policy.
    """

    def __init__(self, path: Path, policy: str) -> None:
        self.path = path
        self.policy = policy
        self.results: dict[str, dict[int, Result]] = {}
        self.damaged = 0
        self.torn = False
        if path.exists():
            content = path.read_text(encoding="utf-8")
            self.torn = not content.endswith("\n") and content != ""
            for line in content.splitlines():
                self._read(line)

    def add(self, spec: str, result: Result) -> None:
        """Log an episode."""
        self.results.setdefault(spec, {})[result.episode] = result
        line = json.dumps({"policy": self.policy, "setting": spec, **asdict(result)})
        with self.path.open("a", encoding="utf-8") as file:
            # A killed bench may leave half a line, which must not take the next one with it.
            file.write(("\n" if self.torn else "") + line + "\n")
        self.torn = False

    def of(self, spec: str) -> dict[int, Result]:
        """Results of a setting by episode."""
        return self.results.get(spec, {})

    def _read(self, line: str) -> None:
        try:
            content = json.loads(line)
            if content.pop("policy") == self.policy:
                spec = content.pop("setting")
                result = Result(**{name: content[name] for name in NAMES})
                self.results.setdefault(spec, {})[result.episode] = result
        except (ValueError, KeyError, TypeError, AttributeError):
            self.damaged += 1
