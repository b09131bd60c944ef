from pathlib import Path

from verbspace.concepts.concept_set import ConceptSet
from verbspace.models.video_encoder import VideoEncoder


def test_card_describes_the_encoder(
    encoder: VideoEncoder, tiny_clip: Path, concepts: ConceptSet, tmp_path: Path
) -> None:
    def card(of: VideoEncoder) -> str:
        of.save_pretrained(tmp_path / "card")
        return (tmp_path / "card" / "README.md").read_text()

    encoder.concept_set = concepts
    text = card(encoder)
    assert text.startswith("---\nlibrary_name: verbspace\n")
    assert "two moves, has 2 actions and 1 descriptions, written by Ada Example" in text
    assert concepts.hash in text
    assert "adapted to video without labels" in text
    assert "- self-supervised" in text
    assert str(tiny_clip) not in text
    assert "base_model" not in text  # others cannot access a local folder
    encoder.config.base_name = "some/clip"
    assert "base_model: some/clip\n" in card(encoder)
    assert "https://huggingface.co/some/clip" in card(encoder)
    fresh = card(VideoEncoder.from_pretrained(tiny_clip, temporal_layers=[1]))
    assert "before 1 of its layers, which is not trained yet" in fresh
    assert "self-supervised" not in fresh
    assert "temporal attention" not in card(VideoEncoder.from_pretrained(tiny_clip, temporal=False))
