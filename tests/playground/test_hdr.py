"""Accuracy on clips that were made HDR: the figures of docs/data.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.hdr_files import TRANSFERS, write_hdr
from verbspace.concepts.concept_set import ConceptSet
from verbspace.data.decoding.probe import probe
from verbspace.data.decoding.pyav import decode_frames
from verbspace.data.sources.manifest import Record, read_manifest
from verbspace.evaluation.zero_shot import zero_shot_scores
from verbspace.inference.embedding import embed_videos
from verbspace.playground.baselines import load_playground_encoder
from verbspace.playground.world import WorldSettings, make_world


@pytest.mark.slow
def test_zero_shot_of_mapped_hdr_is_that_of_sdr(tmp_path: Path) -> None:
    encoder = load_playground_encoder()
    space = encoder.build_concept_space(ConceptSet.load("playground"))
    records = read_manifest(make_world(tmp_path, WorldSettings(probe=60), ("probe",)) / "probe")

    def num_correct(clips: list[Record]) -> int:
        result = embed_videos(encoder, clips, frames=8)
        predicted = zero_shot_scores(result.embeddings, space).argmax(1).tolist()
        return sum(space.action_names[n] == clip.label for n, clip in zip(predicted, result.records, strict=True))

    def convert(transfer: str, white: int, tagged: bool) -> list[Record]:
        folder = tmp_path / f"{transfer} {white} {tagged}"
        folder.mkdir()
        clips = []
        for record in records:
            frames = decode_frames(record.path).permute(0, 2, 3, 1).numpy()
            path = folder / record.path.name
            write_hdr(path, frames, transfer, white, probe(record.path).fps, tagged)
            clips.append(Record(path, record.label))
        return clips

    sdr = num_correct(records)
    print(f"SDR: {sdr} of {len(records)}")
    for transfer in TRANSFERS:
        for white in (100, 203):
            raw, mapped = (num_correct(convert(transfer, white, tagged)) for tagged in (False, True))
            print(f"{transfer}, white at {white} cd/m²: {raw} without mapping, {mapped} mapped")
            assert mapped >= sdr - 2
            assert raw <= sdr - 4
