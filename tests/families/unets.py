"""UNets beside SD 1.5."""

from tests.shapes import Shape

UNETS: tuple[Shape, ...] = ()
