"""Every further family of diffusers pipelines, with parts so small that a run takes a blink.

A family is one `Shape` in one of the files beside this one; the laws run over all of them.
"""

from tests.families.mmdit import MMDIT
from tests.families.single import SINGLE
from tests.families.unets import UNETS
from tests.families.video import VIDEO
from tests.pipelines import Shape

FAMILIES: dict[str, Shape] = {shape.name: shape for shape in (*SINGLE, *MMDIT, *UNETS, *VIDEO)}
