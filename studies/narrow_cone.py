"""Turn a CLIP checkpoint into the same model with a narrower cone of embeddings, in the same format.

    python studies/narrow_cone.py --encoder FOLDER --factor 0.2 --videos videos/ --out runs/narrow

The embeddings of both towers get one more dimension, which is the same for all inputs. All cosines are thereby squeezed
by about `--factor` towards a common offset, and the logit scale is divided by it: the ranking of texts for each video
stays, and so do the model's own probabilities, while the scale of the cosines becomes that of another CLIP.

The additional dimension is exact: the output of a layer norm is w ⊙ x + b with Σ x = 0, so that a projection row of
1/w gives the constant Σ b/w.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from verbspace.concepts.concept_set import ConceptSet
from verbspace.data.dataloader import load_clips
from verbspace.data.datasets import ClipDataset
from verbspace.data.sources.manifest import read_manifest
from verbspace.models import backbones
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.preview import sample_records

VISION, TEXT = "visual_projection.weight", "text_projection.weight"
LAYER_NORMS = {VISION: "vision_model.post_layernorm", TEXT: "text_model.final_layer_norm"}


def constant_row(weight: Tensor, bias: Tensor, value: float) -> Tensor:
    """Return a projection row (W,) that maps every output of a layer norm to `value`."""
    constant = (bias.double() / weight.double()).sum()
    return (value / constant / weight.double()).float()


def mean_norms(source: Path, videos: Path) -> dict[str, float]:
    """Measure the mean norms of the embeddings of videos and of a concept set's texts, by projection."""
    encoder = VideoEncoder.from_pretrained(source, temporal=False)
    dataset = ClipDataset(sample_records(read_manifest(videos)), num_frames=1, preprocessing=encoder.preprocessing)
    norms = []
    with torch.inference_mode():
        for batch in load_clips(dataset, batch_size=8):
            norms.append(encoder.frame_embeddings(encoder.normalize(batch["video"].flatten(0, 1))).norm(dim=-1))
        tokens = encoder.require_processor().tokenize(ConceptSet.load("playground").action_names)
        texts = backbones.embed_texts(encoder.base, **tokens).norm(dim=-1)
    return {VISION: float(torch.cat(norms).mean()), TEXT: float(texts.mean())}


def narrow_cone(source: Path, out: Path, factor: float, norms: dict[str, float]) -> None:
    """Write the narrow checkpoint of a CLIP folder.

    Args:
        source: Folder of a `transformers` CLIP with model.safetensors.
        out: Folder to write.
        factor: Squeeze of the cosines, in (0, 1].
        norms: Mean norm of the embeddings of each tower, by the name of its projection.
    """
    weights = {name: tensor.float() for name, tensor in load_file(source / "model.safetensors").items()}
    shutil.copytree(source, out, dirs_exist_ok=True)
    for name, norm in LAYER_NORMS.items():
        weight, bias = weights[f"{norm}.weight"], weights[f"{norm}.bias"]
        value = norms[name] * math.sqrt(1 / factor - 1)
        weights[name] = torch.cat([weights[name], constant_row(weight, bias, value)[None]])
    weights["logit_scale"] = weights["logit_scale"] - math.log(factor)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, out / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    config["projection_dim"] += 1
    for tower in ("vision_config", "text_config"):
        config[tower]["projection_dim"] = config["projection_dim"]
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, required=True, help="folder of a CLIP checkpoint")
    parser.add_argument("--factor", type=float, required=True, help="squeeze of the cosines")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--videos", type=Path, required=True, help="any videos, to measure the norms of embeddings")
    args = parser.parse_args()
    narrow_cone(args.encoder, args.out, args.factor, mean_norms(args.encoder, args.videos))


if __name__ == "__main__":
    main()
