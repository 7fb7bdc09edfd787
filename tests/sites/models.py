"""Models of a few lines whose blocks lie as in one family or another."""

from torch import nn

from dcache.sites.discovery import discover


class Block(nn.Module):
    """A block without declared sublayers."""


class BasicTransformerBlock(nn.Module):
    """Declared by its name."""

    def __init__(self, cross=True):
        super().__init__()
        self.attn1, self.ff = nn.Identity(), nn.Identity()
        self.attn2 = nn.Identity() if cross else None


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
