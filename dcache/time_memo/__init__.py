"""An exact memo of what a denoiser computes from its timestep alone, with those weights off the device."""

from __future__ import annotations

from dcache.time_memo.front import check, forget, memo, memo_report, with_memo
from dcache.time_memo.report import MemoReport

__all__ = ["MemoReport", "check", "forget", "memo", "memo_report", "with_memo"]
