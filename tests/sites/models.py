"""Models of a few lines whose blocks lie as in one family or another."""

from torch import nn

from dcache.sites.discovery import discover


class Block(nn.Module):
    """A block without sublayers."""


class Attention(nn.Module):
    """Mixes tokens; its keys are the queries' tokens, or those of a context."""

    def __init__(self, width=4, context=None, out=True):
        super().__init__()
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(context or width, width)
        self.to_v = nn.Linear(context or width, width)
        self.to_out = nn.Linear(width, width) if out else nn.Identity()

    def forward(self, x, context=None):
        context = x if context is None else context
        weights = (self.to_q(x) @ self.to_k(context).mT).softmax(-1)
        return self.to_out(weights @ self.to_v(context))


class FeedForward(nn.Sequential):
    """Four times as wide inside."""

    def __init__(self, width=4):
        super().__init__(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


class BasicTransformerBlock(nn.Module):
    """Self-attention, perhaps cross-attention to a context of another width, and an MLP."""

    def __init__(self, cross=True):
        super().__init__()
        self.attn1 = Attention()
        self.attn2 = Attention(context=6) if cross else None
        self.ff = FeedForward()


class Flat(nn.Module):
    def __init__(self, make=Block, count=4):
        super().__init__()
        self.proj = nn.Sequential(nn.Linear(2, 2), nn.SiLU())
        self.blocks = nn.ModuleList(make() for _ in range(count))
        self.heads = nn.ModuleList(nn.Linear(2, 2) for _ in range(5))


class TwoLists(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.ModuleList(Block() for _ in range(2))
        self.second = nn.ModuleList(Block() for _ in range(3))


class Skipping(nn.Module):
    """The blocks in `sinks` are given what an earlier one returned."""

    def __init__(self, count, sinks):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(count))
        for block in self.blocks:
            block.skip_linear = None
        for i in sinks:
            self.blocks[i].skip_linear, self.blocks[i].skip_norm = nn.Linear(2, 1), nn.LayerNorm(2)


class Aside(nn.Module):
    """Lists by the names that diffusers gives to what prepares the trunk's input."""

    def __init__(self):
        super().__init__()
        self.noise_refiner = nn.ModuleList(BasicTransformerBlock() for _ in range(4))
        self.context_refiner = nn.ModuleList(BasicTransformerBlock() for _ in range(4))
        self.layers = nn.ModuleList(BasicTransformerBlock() for _ in range(3))


class Nested(nn.Module):
    """The trunk is one level down; the refiner beside it is shorter."""

    def __init__(self):
        super().__init__()
        self.refiner = Flat(BasicTransformerBlock, 2)
        self.decoder = nn.Module()
        self.decoder.layers = nn.Sequential(*(BasicTransformerBlock() for _ in range(3)))


class Refined(nn.Module):
    def __init__(self):
        super().__init__()
        self.refiner = Flat(BasicTransformerBlock, 7)
        self.blocks = nn.ModuleList(BasicTransformerBlock(cross=i == 1) for i in range(3))


def names(model, *specs):
    return [site.name for site in discover(model).select(specs)]
