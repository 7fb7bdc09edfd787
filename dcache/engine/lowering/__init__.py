"""Lowerings: how a site becomes skippable in a torch model.

- `ModuleCall`: one module is the region (a sublayer). Predicted, it returns the prediction.
- `BlockCall`: a run of the block list. Predicted, every block passes its inputs through and the last one
  returns the prediction, so that what is added between blocks, or a concatenation seam, does no harm.
- `SkipConcatCall`: a UNet bracket. Predicted, the modules inside are `PlaceholderCall`s (empty tensors of the
  true shapes) and the prediction replaces the inner part of the sink's input; the skip stays fresh.
- replay: every module of a run or bracket returns its own prediction. It needs more memory and understands
  less: the reference for the others.

The whole-model site is lowered by the session's own `ModelCall` (`dcache.engine.session`).
"""
