"""Entry: RFD4-Proteina, which denoises a backbone and latents of its residues."""

from __future__ import annotations

from typing import Any

import torch

from tests.builders import Call, generator, model, sampler
from tests.zoo.entry import Entry
from tests.zoo.videos_parts import spread

TOKENS = 8
SIZES = {"nheads": 2, "token_dim": 16, "dim_cond": 8, "pair_repr_dim": 8, "latent_dim": 4}
TIMES = ("time_emb_bb_ca", "time_emb_local_latents")
SEQUENCE = "condition_sequence_1_residue"
# Kinds of residue.
KINDS = 147

_transformer = model(
    "RFD4ProteinaTransformer",
    then=spread(),
    **SIZES,
    nlayers=3,
    t_emb_dim=8,
    xt_pair_dist_dim=6,
    tri_mult_c=8,
    feats_seq=("xt_bb_ca", "xt_local_latents"),
    feats_cond_seq=TIMES,
    feats_pair_repr=("xt_bb_ca_pair_dists",),
    feats_pair_cond=TIMES,
)
_autoencoder = model(
    "RFD4ProteinaAutoencoder",
    **SIZES,
    nlayers=1,
    atom37_mask=[[True] * 37] * KINDS,
    allowed_residue_types=[[True] * KINDS] * 7,
    encoder_feats_seq=("x1_a37coors_nm",),
    decoder_feats_seq=("ca_coors_nm", "z_latent_seq"),
)
_steps = sampler(
    "RFD4ProteinaScheduler", schedule_mode="log", noise_mode="1/t", tsr_k=1.0, tsr_sigma=1.0, tail_steps=0
)


def _build() -> Any:
    from diffusers import RFD4ProteinaPipeline

    # In some steps the blocks are passed twice.
    return RFD4ProteinaPipeline(
        _transformer(), _autoencoder(), _steps(), _steps(), recycle_depths=[1, 1, 1, 2, 2, 2]
    )


def _inputs() -> Call:
    whole = torch.ones(1, TOKENS, dtype=torch.bool)
    zeros = torch.zeros(1, TOKENS, dtype=torch.long)
    return {
        "padding_mask": whole,
        "is_in_context_conditioning": ~whole,
        "supports_local_latent": whole,
        "conditioning_features": {"molecule_iid": zeros, SEQUENCE: zeros},
        "generator": generator(101),
    }


# Its times are named bb_ca_time and local_latents_time, and it has two samplers of other names.
ENTRIES: tuple[Entry, ...] = (
    Entry("RFD4ProteinaPipeline", _build, _inputs, refused={"every": "no denoiser found in RFD4Proteina"}),
)
