"""Watches the first call of a block whose sublayers were found by structure (`dcache.sites.evidence`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from dcache.engine.protocols import Engine
from dcache.intercept.module_call import ModuleIntercept, compiled_inside
from dcache.sites.block_flow import BlockFlow
from dcache.sites.evidence import Verdict, confirm, is_confirmed
from dcache.sites.sublayers import parts_of


class BlockWatch(ModuleIntercept):
    """One block, which is computed in the call that is watched."""

    name = "watch"

    def __init__(self, module: nn.Module, engine: Engine) -> None:
        super().__init__(module)
        self.engine = engine
        self.flow: BlockFlow | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the block; in the first call of a signature, see what its sublayers do."""
        call = self.engine.call
        if call is None or not call.observing or call.probing_attention or self.flow is not None:
            return self.inner(*args, **kwargs)
        flow = BlockFlow(self.module, parts_of(self.module))
        output = flow.run(self.inner, args, kwargs)
        self.flow = flow
        return output

    def confirm(self) -> list[Verdict]:
        """Keep what was seen of the block, and return what differs from what was found by structure."""
        if self.flow is None:
            return []
        verdicts = self.flow.verdicts()
        confirm(self.module, verdicts)
        return [verdict for verdict in verdicts if verdict.why]


def watches(engine: Engine, blocks: Iterable[nn.Module | None]) -> list[BlockWatch]:
    """A watch for each of these blocks that has something to confirm.

    A compiled block is not watched, for it would be compiled anew: what was found by structure stands.
    """
    distinct = dict.fromkeys(block for block in blocks if block is not None)
    return [
        BlockWatch(block, engine)
        for block in distinct
        if not is_confirmed(block) and not any(compiled_inside(part) for part in block.modules())
    ]
